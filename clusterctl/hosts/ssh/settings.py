"""How one machine is reached: what ssh_config and the inventory say together, as values."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clusterctl.errors import UsageError
from clusterctl.hosts.ssh.asked import Asked, parsed_jump
from clusterctl.hosts.ssh.openssh import Answer
from clusterctl.hosts.ssh.options import chosen, not_followed
from clusterctl.hosts.ssh.tokens import Tokens

NONE = "none"

ALGORITHMS = {"ciphers": "ciphers", "macs": "digests", "kexalgorithms": "kex"}
"""Lists of algorithms in ssh_config → what paramiko calls them."""


@dataclass(frozen=True)
class Settings:
    """One machine on the way to a node, or the node itself."""

    asked: Asked
    hostname: str
    port: int
    user: str
    identity_files: tuple[Path, ...]
    certificate_files: tuple[Path, ...]
    identities_only: bool
    agent: Path | None
    """The agent's socket; None for none."""
    jump: str | None
    """Jump hosts as `ssh -G` prints them."""
    proxy_command: str | None
    """As `ssh -G` prints it, with its tokens."""
    proxy_argument: str | None
    """The same with its tokens replaced: what the shell is given."""
    proxy_passes_socket: bool
    host_key_alias: str | None
    known_hosts: tuple[Path, ...]
    """The user's files; new keys are pinned in the first."""
    system_known_hosts: tuple[Path, ...]
    revoked_host_keys: Path | None
    host_key_algorithms: tuple[str, ...] | None
    """In the order of preference; None: what paramiko has."""
    host_key_order_is_chosen: bool
    """Whether somebody chose them, so that no known key changes their order."""
    ca_algorithms: tuple[str, ...] | None
    """With which an authority may sign a host's certificate."""
    algorithms: Mapping[str, tuple[str, ...]]
    """Lists that somebody chose, by paramiko's name."""
    user_key_algorithms: tuple[str, ...] | None
    """With which keys may log in, where somebody chose them."""
    keys_allowed: bool
    least_rsa_bits: int
    address_family: str
    bind_address: str | None
    bind_interface: str | None
    attempts: int
    tcp_keepalive: bool
    compression: bool
    environment: Mapping[str, str]
    """SetEnv."""
    not_followed: tuple[str, ...]
    """What is set and not supported, in words."""

    @property
    def known_as(self) -> str:
        """The name under which known_hosts has the host: the alias alone, else `name`, or `[name]:port` off port 22."""
        if self.host_key_alias:
            return self.host_key_alias
        return self.hostname if self.port == SSH_PORT else f"[{self.hostname}]:{self.port}"


SSH_PORT = 22


def settings_of(asked: Asked, answer: Answer, defaults: Answer) -> Settings:
    """The answer for a machine as values. Raises UsageError for tokens or variables that OpenSSH would not know."""
    one = {name: values[0] for name, values in answer.items() if values}
    alias = _unless_none(one.get("hostkeyalias"))
    jump = _unless_none(one.get("proxyjump"))
    proxy = _unless_none(one.get("proxycommand")) if jump is None else None
    tokens = Tokens(
        original=asked.host,
        hostname=one.get("hostname", asked.host),
        port=int(one["port"]),
        user=one["user"],
        jump=parsed_jump(jump.split(",")[-1])[1] if jump else "",
        alias=alias,
    )
    if set("[]/@ ") & set(tokens.hostname):
        raise UsageError(f"ssh_config for {asked.host}: HostName {tokens.hostname} cannot be a host name")
    own, system = _known_hosts(asked, one, tokens)
    revoked = _unless_none(one.get("revokedhostkeys"))
    return Settings(
        asked=asked,
        hostname=tokens.hostname,
        port=tokens.port,
        user=tokens.user,
        identity_files=_files(answer.get("identityfile", ()), tokens),
        certificate_files=_files(answer.get("certificatefile", ()), tokens),
        identities_only=_yes(one.get("identitiesonly")),
        agent=_agent(one.get("identityagent"), tokens),
        jump=jump,
        proxy_command=proxy,
        proxy_argument=tokens.expanded(proxy) if proxy else None,
        proxy_passes_socket=_yes(one.get("proxyusefdpass")),
        host_key_alias=alias,
        known_hosts=own,
        system_known_hosts=system,
        revoked_host_keys=tokens.path(revoked) if revoked else None,
        host_key_algorithms=_list(one.get("hostkeyalgorithms")),
        host_key_order_is_chosen=chosen(answer, defaults, "hostkeyalgorithms") is not None,
        ca_algorithms=_list(one.get("casignaturealgorithms")),
        algorithms={
            theirs: found
            for name, theirs in ALGORITHMS.items()
            if (found := chosen(answer, defaults, name)) is not None
        },
        user_key_algorithms=chosen(answer, defaults, "pubkeyacceptedalgorithms"),
        keys_allowed=one.get("pubkeyauthentication", "yes") not in ("no", "false"),
        least_rsa_bits=int(one.get("requiredrsasize", "1024")),
        address_family=one.get("addressfamily", "any"),
        bind_address=one.get("bindaddress"),
        bind_interface=one.get("bindinterface"),
        attempts=int(one.get("connectionattempts", "1")),
        tcp_keepalive=one.get("tcpkeepalive", "yes") not in ("no", "false"),
        compression=_yes(one.get("compression")),
        environment=_environment(answer.get("setenv", ())),
        not_followed=tuple(not_followed(answer, defaults)),
    )


def _unless_none(value: str | None) -> str | None:
    return None if value is None or value.lower() == NONE else value


def _yes(value: str | None) -> bool:
    return value in ("yes", "true")


def _list(value: str | None) -> tuple[str, ...] | None:
    return tuple(value.split(",")) if value and value[:1] not in ("+", "-", "^") else None


def _files(values: tuple[str, ...], tokens: Tokens) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(tokens.path(value) for value in values if value.lower() != NONE))


def _agent(value: str | None, tokens: Tokens) -> Path | None:
    """The agent's socket: IdentityAgent, else $SSH_AUTH_SOCK."""
    if value is not None and value.lower() == NONE:
        return None
    if value is None or value == "SSH_AUTH_SOCK":
        socket = os.environ.get("SSH_AUTH_SOCK")
        return Path(socket) if socket else None
    if value.startswith("$") and not value.startswith("${"):
        socket = os.environ.get(value[1:])
        return Path(socket) if socket else None
    return tokens.path(value)


def _known_hosts(asked: Asked, one: Mapping[str, str], tokens: Tokens) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """The user's files and the system's."""
    if asked.known_hosts:
        return (asked.known_hosts,), ()
    own = one.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2")
    system = one.get("globalknownhostsfile", "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2")
    return _several(own, tokens), _several(system, tokens)


def _several(text: str, tokens: Tokens) -> tuple[Path, ...]:
    """The files of a list. `ssh -G` prints names with blanks as they are: what exists is one file."""
    words, found = text.split(), list[Path]()
    if text.lower() == NONE:
        return ()
    while words:
        lengths = range(len(words), 1, -1)
        taken = next((n for n in lengths if tokens.path(" ".join(words[:n]).strip('"')).exists()), 1)
        found.append(tokens.path(" ".join(words[:taken]).strip('"')))
        words = words[taken:]
    return tuple(found)


def _environment(values: tuple[str, ...]) -> Mapping[str, str]:
    """SetEnv's variables; `ssh -G` prints one a line."""
    pairs = (re.match(r"(\w+)=(.*)", value, re.DOTALL) for value in values)
    return {pair[1]: pair[2] for pair in pairs if pair is not None}
