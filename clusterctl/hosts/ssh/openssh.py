"""What ssh_config and the inventory together say of a node: how it is reached, without connecting.

`ssh -G` is asked wherever the operator's machine has a client: it is OpenSSH's own reading of its own files (Include,
Match, CanonicalizeHostname, tokens). Where there is none, paramiko reads them; what it does not know is named.
"""

from __future__ import annotations

import getpass
import os
import pwd
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import paramiko

from clusterctl.errors import UsageError
from clusterctl.hosts.ssh.ssh_options import not_honoured, read_by_paramiko, unread_by_paramiko
from clusterctl.inventory.model import Node, SshDefaults

ANSWER_S = 20
"""Seconds for `ssh -G`, which runs what `Match exec` names."""
MOST_HOPS = 16
"""Jump hosts on the way to a node: more are a loop that changes its user or port at every turn."""
NONE = "none"

Answer = Mapping[str, Sequence[str]]
"""Keyword in lower case → its values, in the order in which they count."""


@dataclass(frozen=True)
class Hop:
    """One machine on the way: how it is reached, and through which other one."""

    host: str
    """As it was asked for: a name, an address, or a Host alias."""
    hostname: str
    user: str
    port: int
    identity_files: tuple[Path, ...]
    certificate_files: tuple[Path, ...]
    identities_only: bool
    """No key of the agent that is not one of the files."""
    agent: bool
    """Whether an agent may be asked."""
    proxy_jump: str | None
    """As ssh_config or the inventory has it: one jump host, or several with commas."""
    proxy_command: str | None
    """With its tokens, as `ssh -G` prints it."""
    host_key_alias: str | None
    known_hosts: tuple[Path, ...]
    """The user's files, then the system's."""
    remarks: tuple[str, ...] = ()
    """What of ssh_config has no effect here, each a sentence."""
    through: Hop | None = None
    """The jump host that it is reached through."""

    @property
    def way(self) -> tuple[Hop, ...]:
        """Every machine on the way, this one first."""
        return (self, *(self.through.way if self.through is not None else ()))

    @property
    def known_as(self) -> str:
        """Its name in known_hosts: the alias, else the name; `[name]:port` off port 22 (OpenSSH's put_host_port)."""
        if self.host_key_alias is not None:
            return self.host_key_alias
        return self.hostname if self.port == paramiko.config.SSH_PORT else f"[{self.hostname}]:{self.port}"

    @property
    def proxy(self) -> str | None:
        """The command whose streams lead to it, as `sh -c` takes it."""
        if self.proxy_command is None:
            return None
        tokens = {"%": "%", "h": self.hostname, "n": self.host, "p": str(self.port), "r": self.user}
        return re.sub(r"%([%hnpr])", lambda found: tokens[found[1]], self.proxy_command)


def route_to(node: Node, ssh: SshDefaults) -> Hop:
    """How a node is reached: ssh_config, and the inventory's own values, which win.

    Raises UsageError for a configuration that OpenSSH refuses (with its file and line), and for jump hosts in a circle.
    """
    key = node.key or ssh.key
    asked = _Asked(
        host=node.host,
        user=node.user or ssh.user,
        port=node.port or ssh.port,
        jump=node.jump or ssh.jump,
        key=key,
        known_hosts=ssh.known_hosts,
        config=ssh.config,
    )
    return _hop(asked, ())


@dataclass(frozen=True)
class _Asked:
    """What is given beside ssh_config, and wins."""

    host: str
    user: str | None
    port: int | None
    jump: str | None
    key: Path | None
    known_hosts: Path | None
    config: Path | None


def _hop(asked: _Asked, before: tuple[tuple[str, str, int], ...]) -> Hop:
    client = shutil.which("ssh")
    answer = _from_openssh(client, asked) if client is not None else _from_paramiko(asked)
    hop = _read(asked, answer)
    if client is None:
        hop = replace(hop, remarks=unread_by_paramiko(_texts(asked.config)))
    here = (hop.hostname, hop.user, hop.port)
    if here in before or len(before) > MOST_HOPS:
        way = " -> ".join(f"{user}@{host}:{port}" for host, user, port in (*before, here))
        raise UsageError(
            f"the jump hosts of {before[0][0]} lead in a circle: {way}",
            hint="in ssh_config, give the jump host itself `ProxyJump none`, above a `Host *` that names it",
        )
    if hop.proxy_jump is None:
        return hop
    *others, last = [jump.strip() for jump in hop.proxy_jump.removeprefix("ssh://").split(",")]
    user, host, port = _jump(last)
    # As ssh itself asks for it: the other jumps lead to the last one, whose own ProxyJump counts only without any.
    through = replace(asked, host=host, user=user, port=port, jump=",".join(others) or None)
    return replace(hop, through=_hop(through, (*before, here)))


def _jump(text: str) -> tuple[str | None, str, int | None]:
    """user@host:port of a jump host. Raises UsageError."""
    found = re.fullmatch(
        r"(?:ssh://)?(?:(?P<user>[^@]+)@)?(?:\[(?P<six>[^]]+)\]|(?P<host>[^:]+))(?::(?P<port>\d+))?/?", text
    )
    if found is None:
        six = text.rpartition("@")[2]
        if six.count(":") > 1:  # an IPv6 address without brackets and without a port
            return text.rpartition("@")[0] or None, six, None
        raise UsageError(f"{text!r} is no jump host", hint="write it as user@host:port")
    return found["user"], found["six"] or found["host"], int(found["port"]) if found["port"] else None


def _from_openssh(client: str, asked: _Asked) -> Answer:
    options = [
        *(["-F", str(asked.config)] if asked.config else []),
        *(["-l", asked.user] if asked.user else []),
        *(["-p", str(asked.port)] if asked.port else []),
        *(["-J", asked.jump] if asked.jump else []),
        # Not -i, which passes over a file that is not there, and takes the default ones.
        *(["-o", f"IdentityFile={asked.key}"] if asked.key else []),
    ]
    return _answer_of(client, (*options, "--", asked.host))


def _answer_of(client: str, arguments: tuple[str, ...]) -> Answer:
    try:
        done = subprocess.run(
            [client, "-G", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ANSWER_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UsageError(
            f"`ssh -G {arguments[-1]}` did not answer within {ANSWER_S} s",
            hint="does a command of `Match exec` in ssh_config hang?",
        ) from error
    except OSError as error:
        raise UsageError(f"cannot run {client}: {error.strerror}") from error
    if done.returncode != 0:
        said = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        raise UsageError(
            f"OpenSSH refuses the configuration for {arguments[-1]}: {'; '.join(said) or 'it does not say why'}",
            hint=f"correct that line of ssh_config; ssh -G {arguments[-1]} checks it without connecting",
        )
    found: dict[str, list[str]] = {}
    for line in done.stdout.decode(errors="replace").splitlines():
        name, _, value = line.partition(" ")
        found.setdefault(name.lower(), []).append(value)
    return found


@lru_cache
def _defaults(client: str) -> Answer:
    """What OpenSSH says where nothing is configured."""
    return _answer_of(client, ("-F", NONE, "--", "host.invalid"))


def _from_paramiko(asked: _Asked) -> Answer:
    try:
        found = paramiko.SSHConfig.from_text(read_by_paramiko(_texts(asked.config))).lookup(asked.host)
    except (paramiko.ConfigParseError, ValueError) as error:
        raise UsageError(f"cannot read {asked.config or 'your ssh_config'}: {error}") from error
    given = {"user": asked.user, "port": asked.port, "proxyjump": asked.jump}
    found |= {name: str(value) for name, value in given.items() if value}
    answer = {name: [value] if isinstance(value, str) else list(value) for name, value in found.items()}
    if asked.key:
        answer["identityfile"] = [str(asked.key), *answer.get("identityfile", [])]
    if asked.jump:
        answer.pop("proxycommand", None)
    answer.setdefault("user", [getpass.getuser()])
    answer.setdefault("port", [str(paramiko.config.SSH_PORT)])
    answer.setdefault("identityfile", [f"~/.ssh/id_{kind}" for kind in ("rsa", "ecdsa", "ed25519")])
    return answer


def _texts(config: Path | None) -> Sequence[str]:
    """The files that paramiko reads. Raises UsageError for a named one that cannot be read."""
    if config is None:
        paths = (Path(_home(), ".ssh/config"), Path("/etc/ssh/ssh_config"))
        return [path.read_text(errors="replace") for path in paths if os.access(path, os.R_OK)]
    try:
        return [config.read_text(errors="replace")]
    except OSError as error:
        raise UsageError(f"ssh.config: cannot read {config}: {error.strerror}") from error


def _read(asked: _Asked, answer: Answer) -> Hop:
    def one(name: str) -> str | None:
        value = answer.get(name, [""])[0]
        return value if value and value.lower() != NONE else None

    hostname, user = one("hostname") or asked.host, one("user") or getpass.getuser()
    port = int(one("port") or paramiko.config.SSH_PORT)
    tokens = {"%": "%", "d": _home(), "h": hostname, "n": asked.host, "p": str(port), "r": user}
    tokens |= {
        "u": getpass.getuser(),
        "i": str(os.getuid()),
        "l": socket.gethostname(),
        "L": socket.gethostname().partition(".")[0],
    }
    tokens["k"] = one("hostkeyalias") or asked.host

    def files(*names: str, several: bool = False) -> Iterator[Path]:
        for value in (value for name in names for value in answer.get(name, [])):
            for path in value.split() if several else [value]:
                if path.lower() != NONE:
                    yield _absolute(path.strip('"'), tokens)

    if asked.known_hosts is not None:
        known_hosts: tuple[Path, ...] = (asked.known_hosts,)
    elif "userknownhostsfile" in answer or "globalknownhostsfile" in answer:
        known_hosts = tuple(files("userknownhostsfile", "globalknownhostsfile", several=True))
    else:
        known_hosts = (Path(_home(), ".ssh/known_hosts"), Path("/etc/ssh/ssh_known_hosts"))
    client = shutil.which("ssh")
    return Hop(
        host=asked.host,
        hostname=hostname,
        user=user,
        port=port,
        identity_files=tuple(dict.fromkeys(files("identityfile"))),
        certificate_files=tuple(files("certificatefile")),
        identities_only=one("identitiesonly") in ("yes", "true"),
        agent=answer.get("identityagent", [""])[0].lower() != NONE,
        proxy_jump=one("proxyjump"),
        proxy_command=one("proxycommand"),
        host_key_alias=one("hostkeyalias"),
        known_hosts=known_hosts,
        remarks=not_honoured(answer, _defaults(client)) if client is not None else (),
    )


def _absolute(path: str, tokens: Mapping[str, str]) -> Path:
    expanded = re.sub(r"%([%dhnpruilLk])", lambda found: tokens[found[1]], path)
    expanded = re.sub(r"\$\{(\w+)\}", lambda found: os.environ.get(found[1], ""), expanded)
    if expanded == "~" or expanded.startswith("~/"):
        expanded = _home() + expanded[1:]
    return Path(expanded).expanduser().absolute()


def _home() -> str:
    """This login's directory as OpenSSH has it: of the password file, whatever $HOME says."""
    return pwd.getpwuid(os.getuid()).pw_dir
