"""Who runs this command: what the nodes record of it."""

from __future__ import annotations

import getpass
import os
import socket


def whoami() -> str:
    """user@host of the operator's machine, as other operators know them."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
