"""The cluster's secrets: where each comes from. They live in 0600 files in the containers, and nowhere else."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from clusterctl.errors import UsageError
from clusterctl.inventory.model import Inventory

TOKEN_BYTES = 32
"""256 bits: nobody guesses it, however often they may try."""


API_KEY_PREFIX = "cc-"
"""Marks our keys for people, and for tools that search files for secrets."""


_HEADER_VALUE = re.compile(rb"[\x21-\x7e]+")
"""What a bearer token may hold without quoting (RFC 6750, 2.1, is narrower; vLLM compares whatever was sent)."""


def token(path: Path | None, field: str) -> bytes:
    """A token for this start of the gang: the operator's file, or a new random one that lives only in containers.

    Raises UsageError for a file that others may read, or that is missing or empty.
    """
    return secrets.token_hex(TOKEN_BYTES).encode() if path is None else read_secret(path, field)


def api_key(inventory: Inventory, existing: bytes | None) -> bytes | None:
    """The key that clients of the API must send; None when the inventory wants none.

    The operator's file wins; else what the head's container holds already (`existing`, see `held_api_key`), so that
    clients survive another `up`; else a new random one. A result that differs from `existing` is a change that the
    container's hash does not show, since no secret is in it. Raises UsageError for a file that cannot be a key.
    """
    serve = inventory.serve
    if serve.api_key == "off":
        return None
    if serve.api_key_file is not None:
        return _one_word(read_secret(serve.api_key_file, "serve.api_key_file"), serve.api_key_file)
    return existing or f"{API_KEY_PREFIX}{secrets.token_urlsafe(TOKEN_BYTES)}".encode()


def read_secret(path: Path, field: str) -> bytes:
    """Content of a file that only its owner may read. Raises UsageError with the fix."""
    try:
        mode = path.stat().st_mode & 0o777
        content = path.read_bytes().strip()
    except OSError as error:
        raise UsageError(f"{field}: cannot read {path}: {error.strerror}") from error
    if mode & 0o077:
        raise UsageError(f"{field}: {path} is readable by others (mode {mode:04o})", hint=f"chmod 600 {path}")
    if not content:
        raise UsageError(f"{field}: {path} is empty", hint=f"openssl rand -hex 32 > {path}")
    return content


def _one_word(key: bytes, path: Path) -> bytes:
    """The key, if it can be sent in a header and set in an environment as it is. Raises UsageError, without it."""
    if not _HEADER_VALUE.fullmatch(key):
        raise UsageError(
            f"serve.api_key_file: {path} holds more than one line, a space, or a character that is not ASCII",
            hint=f"put one key on one line: openssl rand -hex 32 > {path}",
        )
    return key
