"""What is asked of SSH for one machine: what a person would write behind `ssh`, and nothing from ssh_config."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from clusterctl.inventory.model import Node, SshDefaults

NO_JUMP = "none"
"""In place of a jump host: go without one, whatever ssh_config says."""


@dataclass(frozen=True)
class Asked:
    """One machine, as a command line asks for it. What is None, ssh_config says."""

    host: str
    user: str | None = None
    port: int | None = None
    key: Path | None = None
    jump: str | None = None
    """Jump hosts, the first one first: [user@]host[:port],…; `none` for none."""
    config: Path | None = None
    known_hosts: Path | None = None
    """The only file in which host keys are looked up."""

    def words(self) -> list[str]:
        """The options and the host, as `ssh` takes them."""
        words = ["-F", str(self.config)] if self.config else []
        words += ["-p", str(self.port)] if self.port else []
        words += ["-l", self.user] if self.user else []
        words += _identity(self.key) if self.key else []
        words += ["-J", self.jump] if self.jump else []
        if self.known_hosts:
            words += [
                "-o",
                f'UserKnownHostsFile="{_escaped(self.known_hosts)}"',
                "-o",
                "GlobalKnownHostsFile=/dev/null",
            ]
        return [*words, self.host]

    def through(self, jumps: str, *, own: bool) -> Asked:
        """The last of these jump hosts as ssh itself asks for it: the others are its own jump hosts.

        With `own`, they are the inventory's, and its key is for them too.
        """
        *before, last = jumps.split(",")
        user, host, port = parsed_jump(last)
        return replace(
            self, host=host, user=user, port=port, key=self.key if own else None, jump=",".join(before) or None
        )


def _identity(key: Path) -> list[str]:
    """-i passes over a file that is not there, and other keys would be used in its place; -o does not."""
    plain = key.exists() and "%" not in str(key)
    return ["-i", str(key)] if plain else ["-o", f'IdentityFile="{_escaped(key)}"']


def _escaped(path: Path) -> str:
    """In a path, `%` begins a token."""
    return str(path).replace("%", "%%")


def asked_of(node: Node, ssh: SshDefaults) -> Asked:
    """What the inventory says of a node; the node's own values win."""
    return Asked(
        host=node.host,
        user=node.user or ssh.user,
        port=node.port or ssh.port,
        key=node.key or ssh.key,
        jump=node.jump or ssh.jump,
        config=ssh.config,
        known_hosts=ssh.known_hosts,
    )


def parsed_jump(jump: str) -> tuple[str | None, str, int | None]:
    """User, host and port of one jump host: [user@]host[:port], an IPv6 address with a port in brackets."""
    user, at, place = jump.removeprefix("ssh://").rstrip("/").rpartition("@")
    if place.startswith("["):
        host, _, port = place[1:].partition("]")
    elif place.count(":") == 1:
        host, _, port = place.partition(":")
    else:
        host, port = place, ""
    port = port.lstrip(":")
    return user if at else None, host, int(port) if port.isdecimal() else None
