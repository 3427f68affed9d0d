"""Why one hop on the way to a node could not be opened, and what to do about it."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import fabric
import paramiko

from clusterctl.hosts.ssh.errors import CommandTimeoutError, ConnectError, HostError, HostKeyError
from clusterctl.hosts.ssh.framing import NotBegunError, shown
from clusterctl.hosts.ssh.hops import address_of, command_to, known_as
from clusterctl.hosts.ssh.known_hosts import KnownKeys, UntrustedHostKeyError, fingerprint


@dataclass(frozen=True)
class Opening:
    """A hop that is opened on the way to a node. Its methods build errors, and raise none."""

    node: str
    hop: fabric.Connection
    is_jump: bool
    patience_s: float
    """How long it may take (timeouts.connect_s)."""

    @property
    def where(self) -> str:
        """Which machine on the way it is, and through which jump host it is reached."""
        name = f"jump host {address_of(self.hop)}" if self.is_jump else address_of(self.hop)
        through = self.hop.gateway
        return f"{name} through jump host {address_of(through)}" if isinstance(through, fabric.Connection) else name

    def unreadable(self, error: OSError) -> ConnectError:
        """For a known_hosts file that is there but cannot be read."""
        return self._failed(
            f"cannot read {error.filename}: {error.strerror}",
            "without known_hosts no host key can be checked; ssh.known_hosts names another file",
        )

    def untrusted(
        self,
        error: UntrustedHostKeyError | paramiko.BadHostKeyException,
        known: KnownKeys,
        pins: Path,
        files: Sequence[Path],
    ) -> HostKeyError:
        """For a host key that is revoked, another, or unknown. `pins` is where a new one would be kept, `files` are all
        that were read."""
        showed = f"{error.key.get_name()} {fingerprint(error.key)}"
        if error.key in known.revoked:
            return HostKeyError(
                self.node,
                f"{self.where}: its host key is revoked by an @revoked line in "
                f"{' or '.join(map(str, files))} (it showed {showed})",
                hint="whoever has that key can pose as the machine: give the machine new host keys, then run once with "
                "--accept-new-host-keys",
            )
        if isinstance(error, paramiko.BadHostKeyException):
            return HostKeyError(
                self.node,
                f"{self.where}: its host key is NOT the one in {pins}: expected "
                f"{fingerprint(error.expected_key)}, it showed {fingerprint(error.key)}",
                hint="either the machine was reinstalled or something answers in its place; when you know it was "
                f"reinstalled: ssh-keygen -R '{known_as(self.hop)}' -f {pins}, then --accept-new-host-keys",
            )
        certified = "host certificates (@cert-authority) are not supported here: " if known.certified else ""
        return HostKeyError(
            self.node,
            f"{self.where}: its host key is not in {pins} (it showed {showed})",
            hint=f"{certified}compare that fingerprint with the machine's own (on its console: "
            "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then run once with --accept-new-host-keys",
        )

    def not_opened(self, error: Exception) -> ConnectError:
        """For everything else that keeps it from being opened."""
        if isinstance(self.hop.gateway, fabric.Connection) and self.hop.client.get_transport() is None:
            return self._not_passed_on(error)
        match error:
            case paramiko.PasswordRequiredException():
                what, hint = "the private key is encrypted", "load it into an agent: ssh-add KEYFILE"
            case paramiko.AuthenticationException():
                what = f"SSH login refused ({error})"
                hint = f"check the user and key of this node in the inventory; try: {command_to(self.hop)}"
            case socket.gaierror():
                what, hint = f"cannot resolve the host name ({error.strerror})", "check `host`"
            case TimeoutError():
                what = f"no answer within {self.patience_s:g} s"
                hint = "is the machine on, and is its SSH port reachable from here?"
            case paramiko.ssh_exception.NoValidConnectionsError():
                reasons = {str(getattr(reason, "strerror", None) or reason) for reason in error.errors.values()}
                what = f"cannot connect ({', '.join(sorted(reasons))})"
                hint = "is the machine on, and is sshd running on that port?"
            case _:
                what, hint = f"SSH failed ({error or type(error).__name__})", command_to(self.hop, "-v")
        return self._failed(what, hint)

    def not_run(self, what: str, error: NotBegunError, patience_s: float) -> HostError:
        """For a login that ran something else than the command, or nothing."""
        printed = shown(error.printed)
        said = f"; it printed: {printed}" if printed else ""
        if error.ended:
            return HostError(
                self.node,
                f"{self.where}: the login ended without running `{what}`{said or ', and printed nothing'}",
                hint="has the user a shell that runs commands (not nologin), and neither a ForceCommand (sshd_config) "
                f"nor a command= (authorized_keys) that refuses them? try: {command_to(self.hop)} true",
            )
        return CommandTimeoutError(
            self.node,
            f"{self.where}: the login did not come to run `{what}` within {patience_s:g} s{said}",
            hint="does ~/.bashrc, or what else the login's shell reads, ask or wait for something? "
            f"try: {command_to(self.hop)} true",
        )

    def _not_passed_on(self, error: Exception) -> ConnectError:
        """The jump host was reached, but no connection from there to the next machine came about."""
        if isinstance(error, paramiko.ChannelException):
            what = f"the jump host cannot connect to it ({error.text})"
            hint = (
                "is the machine on, and is sshd running on that port? Does the jump host allow forwarding "
                "(AllowTcpForwarding)?"
            )
        elif self.hop.gateway.is_connected:  # nothing else raises while it stands: paramiko has no type for this
            what = f"no answer within {self.patience_s:g} s"
            hint = "is the machine on, and is its SSH port reachable from the jump host?"
        else:
            what = f"the jump host hung up ({error or type(error).__name__})"
            hint = command_to(self.hop.gateway, "-v")
        return self._failed(what, hint)

    def _failed(self, what: str, hint: str) -> ConnectError:
        return ConnectError(self.node, f"{self.where}: {what}", hint=hint)
