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

_MATCHED = frozenset({"all", "canonical", "exec", "final", "host", "localuser", "originalhost", "user"})
"""Criteria of Match that paramiko knows. `exec` it runs only where Invoke is installed, as it is here."""

UNREAD = {
    "include": "is not followed",
    "canonicalizehostname": "is read by paramiko's own rules",
    "canonicalizepermittedcnames": "does nothing",
    "tag": "does nothing",
    "ignoreunknown": "does nothing",
}


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
        except (paramiko.SSHException, OSError, ValueError) as error:
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
    texts = [(file, _text(file)) for file in files]
    differences = [difference for file, text in texts for difference in _differences(file, text)]
    parsed = paramiko.SSHConfig()
    for file, text in texts:
        try:
            parsed.parse(text.splitlines())
        except (paramiko.ConfigParseError, ValueError) as error:
            unknown = "".join(f"\n  {difference}" for difference in differences)
            raise UsageError(
                f"{file}: cannot be read without the OpenSSH client: {error}{unknown}", hint=INSTALL
            ) from error
    return Reading(parsed, tuple(differences))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"ssh.config: cannot read {file}: {error.strerror}") from error


def _differences(file: Path, text: str) -> Iterator[str]:
    """What paramiko (read in 5.1: config.py) takes in another way than OpenSSH, or not at all."""
    for number, line in enumerate(text.splitlines(), 1):
        found = _LINE.match(line)
        if found is None:
            continue
        key, value = found["key"].lower(), found["value"]
        if key in UNREAD and not (key == "canonicalizehostname" and value.lower() == "no"):
            yield f"{file}:{number}: {found['key']} {UNREAD[key]}"
        if key == "match":
            for word in re.findall(r"!?([A-Za-z]+)(?:\s*=|\s|$)", _without_values(value)):
                if word.lower() not in _MATCHED:
                    yield f"{file}:{number}: Match {word} is not understood"
            if re.search(r"[A-Za-z]=", value):
                yield f"{file}:{number}: Match with `=` is not understood; write a space"


def _without_values(criteria: str) -> str:
    """The names of a Match line's criteria: every other word, but for those that stand alone."""
    names, words = [], re.findall(r'"[^"]*"|[^\s=]+', criteria)
    while words:
        name = words.pop(0)
        names.append(name)
        if name.lstrip("!").lower() not in {"all", "canonical", "final"} and words:
            words.pop(0)
    return " ".join(names)
