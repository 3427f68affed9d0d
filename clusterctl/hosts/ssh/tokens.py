"""Tokens (`%h`), `~` and `${NAME}` in what ssh_config says, as in the section TOKENS of ssh_config(5).

`ssh -G` prints most of them as they were written. The home is the one of the password database, as for OpenSSH, and not
what $HOME says.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import pwd
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from clusterctl.errors import UsageError


def home() -> Path:
    """This login's home."""
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # a container's login that is in no database
        return Path("~").expanduser()


@dataclass(frozen=True)
class Tokens:
    """What the tokens mean for one machine."""

    original: str
    """The host as it was asked for."""
    hostname: str
    port: int
    user: str
    jump: str = ""
    alias: str | None = None
    """HostKeyAlias."""

    def expanded(self, text: str) -> str:
        """The text with its tokens replaced. Raises UsageError for one that OpenSSH would not know."""
        here = socket.gethostname()
        known = {
            "%": "%",
            "d": str(home()),
            "h": self.hostname,
            "i": str(os.getuid()),
            "j": self.jump,
            "k": self.alias or self.original,
            "L": here.split(".")[0],
            "l": here,
            "n": self.original,
            "p": str(self.port),
            "r": self.user,
            "u": getpass.getuser(),
        }
        joined = here + self.hostname + str(self.port) + self.user + self.jump
        known["C"] = hashlib.sha1(joined.encode(), usedforsecurity=False).hexdigest()

        def value(found: re.Match[str]) -> str:
            if found[1] not in known:
                raise UsageError(f"ssh_config for {self.original}: unknown token {found[0]} in {text}")
            return known[found[1]]

        return re.sub(r"%(.?)", value, text)

    def path(self, text: str) -> Path:
        """The file that a text names: `~`, ${NAME}, tokens replaced; relative to the working directory, as for ssh."""
        named = re.sub(r"\$\{(\w+)\}", lambda found: self._variable(found[1], text), text)
        path = Path(self.expanded(_tilde(named)))
        return path if path.is_absolute() else Path.cwd() / path  # the directory may be gone: only where it counts

    def _variable(self, name: str, text: str) -> str:
        if name not in os.environ:
            raise UsageError(f"ssh_config for {self.original}: ${{{name}}} in {text} is not set in the environment")
        return os.environ[name]


def _tilde(text: str) -> str:
    if not text.startswith("~"):
        return text
    login, slash, rest = text[1:].partition("/")
    try:
        base = home() if not login else Path(pwd.getpwnam(login).pw_dir)
    except KeyError as error:
        raise UsageError(f"ssh_config: no user {login} on this machine ({text})") from error
    return f"{base}{slash}{rest}"
