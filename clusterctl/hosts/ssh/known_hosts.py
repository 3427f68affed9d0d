"""Host keys: what known_hosts files say of a host, and what happens to a key that they do not know."""

from __future__ import annotations

import base64
import hmac
import os
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import paramiko
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

_pin_lock = threading.Lock()


@dataclass(frozen=True)
class KnownKeys:
    """What known_hosts says of one host."""

    trusted: tuple[paramiko.PKey, ...]
    """Its own keys, in the order of the lines; none of them is revoked."""
    revoked: tuple[paramiko.PKey, ...]
    """Keys that must never be its key (`@revoked`)."""
    authorities: tuple[paramiko.PKey, ...]
    """Keys of those who may vouch for it with a certificate (`@cert-authority`); none of them is revoked."""

    @property
    def certified(self) -> bool:
        """Whether an authority may vouch for it."""
        return bool(self.authorities)


def known_keys(lines: Iterable[str], host: str) -> KnownKeys:
    """What the lines of known_hosts files say of a host, by its name there: `name`, or `[name]:port` off port 22.

    A line that cannot be read says nothing, as for OpenSSH.
    """
    found: dict[str, list[paramiko.PKey]] = {"": [], "@revoked": [], "@cert-authority": []}
    for line in lines:
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) < 3 or fields[0].startswith("#") or marker not in found:
            continue
        try:
            entry = HostKeyEntry.from_line(" ".join(fields[:3])) if _is_about(host, fields[0]) else None
        # What paramiko 3.4 to 5.1 raise for 4,000 keys with flipped bits or cut short.
        except (InvalidHostKey, paramiko.SSHException, ValueError, ArithmeticError):
            continue
        # paramiko fills a key that was cut short up with zeros: it would be another key, and so a changed one.
        if entry is not None and entry.key is not None and entry.key.get_base64() == fields[2]:
            found[marker].append(entry.key)
    revoked = found["@revoked"]
    return KnownKeys(
        trusted=tuple(key for key in found[""] if key not in revoked),
        revoked=tuple(revoked),
        authorities=tuple(key for key in found["@cert-authority"] if key not in revoked),
    )


def _is_about(host: str, names: str) -> bool:
    """Whether the names of a line fit the host: one does, and none that is negated (`!name`). Raises ValueError for a
    damaged hash."""
    patterns = names.split(",")
    excluded = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    return any(_fits(host, pattern) for pattern in patterns) and not any(_fits(host, pattern) for pattern in excluded)


def _fits(host: str, pattern: str) -> bool:
    """Whether one name of a line is the host's: literal, with `*` and `?`, or hashed (`HashKnownHosts yes`)."""
    if pattern.startswith("|1|"):
        _, _, salt, digest = pattern.split("|")
        made = [hmac.digest(base64.b64decode(salt), name.encode(), "sha1") for name in (host, host.lower())]
        return base64.b64decode(digest) in made
    # No fnmatch: to it, the brackets of `[name]:port` are a set of characters.
    wanted = "".join({"*": ".*", "?": "."}.get(character, re.escape(character)) for character in pattern.lower())
    return re.fullmatch(wanted, host.lower()) is not None


def pin(known_hosts: Path, host: str, key: paramiko.PKey) -> None:
    """Append a host's key, so that from then on it is known."""
    with _pin_lock:
        known_hosts.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _append_line(known_hosts, f"{host} {key.get_name()} {key.get_base64()}")


def _append_line(path: Path, line: str) -> None:
    """Add a line to a file, also to one whose last line was left without an end."""
    with path.open("a+b") as file:
        unended = b""
        if file.seekable() and file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            unended = b"" if file.read(1) == b"\n" else b"\n"
        file.write(unended + line.encode() + b"\n")


def fingerprint(key: paramiko.PKey) -> str:
    """The key's fingerprint as `ssh-keygen -l` prints it: `SHA256:…`."""
    return key.fingerprint
