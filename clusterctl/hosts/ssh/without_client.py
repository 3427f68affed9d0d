"""ssh_config without an OpenSSH client: as paramiko reads it, and where that is not what OpenSSH would read."""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko

from clusterctl.errors import UsageError
from clusterctl.hosts.ssh.asked import NO_JUMP, Asked
from clusterctl.hosts.ssh.openssh import Answer
from clusterctl.hosts.ssh.tokens import home

SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")

INSTALL = "install the OpenSSH client here (Debian: openssh-client): with it, ssh_config counts exactly as ssh reads it"

_LINE = re.compile(r"^\s*(?P<key>[A-Za-z0-9]+)(?:\s*=\s*|\s+)(?P<value>.*?)\s*$")

_MATCHED = frozenset({"all", "final", "host", "localuser", "originalhost", "user"})
"""Criteria of Match that paramiko decides as OpenSSH does."""

_ALONE = frozenset({"all", "canonical", "final"})
"""Criteria that have no value."""

_UNREAD = {
    "include": "is not followed",
    "canonicalizehostname": "is not followed",
    "tag": "does nothing",
    "ignoreunknown": "does nothing",
}
"""Keywords that paramiko does not know, or reads in another way than OpenSSH (it would look names up by its own)."""


@dataclass(frozen=True)
class Reading:
    """The files that count for a run, as paramiko reads them."""

    config: paramiko.SSHConfig
    differences: tuple[str, ...]
    """Where OpenSSH would read something else, each with its file and line."""

    def answer(self, asked: Asked) -> Answer:
        """What it says of a machine, with what is asked in front, in the words of `ssh -G`."""
        try:
            said = self.config.lookup(asked.host)
        except (paramiko.SSHException, OSError, ValueError, LookupError) as error:
            raise UsageError(f"ssh_config for {asked.host}: {error}", hint=INSTALL) from error
        found: dict[str, tuple[str, ...]] = {
            name: tuple(value) if isinstance(value, list) else (str(value),)
            for name, value in said.items()
            if value is not None
        }
        found["host"] = (asked.host,)
        found["user"] = (asked.user or next(iter(found.get("user", ())), getpass.getuser()),)
        found["port"] = (str(asked.port) if asked.port else next(iter(found.get("port", ())), "22"),)
        keys = (str(asked.key),) if asked.key else ()
        found["identityfile"] = (*keys, *found.get("identityfile", ())) or DEFAULT_KEYS
        if asked.jump:
            found["proxyjump"] = (asked.jump,)
            found.pop("proxycommand", None)
        if found.get("proxyjump", ("",))[0].lower() == NO_JUMP:
            del found["proxyjump"]
        if asked.known_hosts:
            found["userknownhostsfile"], found["globalknownhostsfile"] = (str(asked.known_hosts),), ("/dev/null",)
        return found


DEFAULT_KEYS = tuple(f"~/.ssh/id_{kind}" for kind in ("rsa", "ecdsa", "ecdsa_sk", "ed25519", "ed25519_sk"))
"""Keys that OpenSSH tries where ssh_config names none."""


def read(config: Path | None) -> Reading:
    """Read this file, or those that count where none is given. Raises UsageError for one that cannot be read."""
    files = [config] if config else [file for file in (home() / ".ssh" / "config", SYSTEM_CONFIG) if file.exists()]
    differences: list[str] = []
    parsed = paramiko.SSHConfig()
    for file in files:
        lines = list(_readable(file, _text(file), differences))
        try:
            parsed.parse(lines)
        except (paramiko.ConfigParseError, ValueError) as error:
            unread = "".join(f"\n  {difference}" for difference in differences)
            raise UsageError(
                f"{file}: cannot be read without the OpenSSH client: {error}{unread}", hint=INSTALL
            ) from error
    return Reading(parsed, tuple(differences))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"ssh.config: cannot read {file}: {error.strerror}") from error


def _readable(file: Path, text: str, differences: list[str]) -> Iterator[str]:
    """The lines that paramiko reads as OpenSSH does. What is left out is named: a keyword, or a whole Match block, of
    which nobody here can tell whether it applies."""
    passing_over = False
    for number, line in enumerate(text.splitlines(), 1):
        found = _LINE.match(line)
        key = found["key"].lower() if found is not None else ""
        if found is not None and key in ("host", "match"):
            passing_over = False
        if found is not None and key == "match":
            criteria = dict(_criteria(found["value"]))
            unknown = [name for name in criteria if name.lstrip("!").lower() not in _MATCHED]
            if unknown:
                passing_over = True
                differences.append(f"{file}:{number}: Match {unknown[0]} is not understood: its block is passed over")
            else:
                yield "Match " + " ".join(f"{name} {value}".strip() for name, value in criteria.items())
            continue
        if found is not None and key in _UNREAD and not passing_over:
            if found["value"].lower() != "no":
                differences.append(f"{file}:{number}: {found['key']} {_UNREAD[key]}")
            continue
        if not passing_over:
            yield line


def _criteria(text: str) -> Iterator[tuple[str, str]]:
    """A Match line's criteria with their values; OpenSSH takes `=` or a blank between them."""
    words = re.findall(r'"[^"]*"|[^\s="]+', text)
    while words:
        name = words.pop(0)
        yield name, "" if name.lstrip("!").lower() in _ALONE or not words else words.pop(0)
