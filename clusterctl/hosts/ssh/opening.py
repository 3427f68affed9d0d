"""Why one hop on the way to a node could not be opened, and what to do about it."""

from __future__ import annotations

import shlex
import socket
from dataclasses import dataclass

import paramiko

from clusterctl.hosts.ssh.errors import CommandTimeoutError, ConnectError, HostError, HostKeyError
from clusterctl.hosts.ssh.framing import NotBegunError, shown
from clusterctl.hosts.ssh.hops import Hop, address_of, command_to
from clusterctl.hosts.ssh.known_hosts import fingerprint
from clusterctl.hosts.ssh.transport import OrderedTransport
from clusterctl.hosts.ssh.trust import Known, UntrustedHostKeyError


@dataclass(frozen=True)
class Opening:
    """A hop that is opened on the way to a node. Its methods build errors, and raise none."""

    node: str
    hop: Hop
    is_jump: bool
    patience_s: float
    """How long it may take (timeouts.connect_s)."""

    @property
    def where(self) -> str:
        """Which machine on the way it is, and through which jump host it is reached."""
        name = f"jump host {address_of(self.hop)}" if self.is_jump else address_of(self.hop)
        if self.hop.before is not None:
            return f"{name} through jump host {address_of(self.hop.before)}"
        return f"{name} through its ProxyCommand" if self.hop.settings.proxy_command else name

    def unreadable(self, error: OSError) -> ConnectError:
        """For a known_hosts file that is there but cannot be read."""
        return self._failed(
            f"cannot read {error.filename}: {error.strerror}",
            "without known_hosts no host key can be checked; ssh.known_hosts names another file",
        )

    def untrusted(self, error: UntrustedHostKeyError | paramiko.BadHostKeyException, known: Known) -> HostKeyError:
        """For a host key that is revoked, another, or unknown."""
        settings = self.hop.settings
        files = " or ".join(map(str, (*settings.known_hosts, *settings.system_known_hosts))) or "any known_hosts file"
        showed = f"{error.key.get_name()} {fingerprint(error.key)}"
        why = getattr(error, "why", "")
        if error.key in known.revoked or "revoke" in why:
            where = why if "RevokedHostKeys" in why else f"revoked by an @revoked line in {files}"
            return HostKeyError(
                self.node,
                f"{self.where}: its host key is {where} (it showed {showed})",
                hint="whoever has that key can pose as the machine: give the machine new host keys, then run once with "
                "--accept-new-host-keys",
            )
        if isinstance(error, paramiko.BadHostKeyException):
            return HostKeyError(
                self.node,
                f"{self.where}: its host key is NOT the one in {files}: expected "
                f"{fingerprint(error.expected_key)}, it showed {fingerprint(error.key)}",
                hint="either the machine was reinstalled or something answers in its place; when you know it was "
                f"reinstalled: {self._forgetting()}, then --accept-new-host-keys",
            )
        return HostKeyError(
            self.node,
            f"{self.where}: its host key is not in {files} (it showed {showed})" + (f"; {why}" if why else ""),
            hint="compare that fingerprint with the machine's own (on its console: "
            "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then run once with --accept-new-host-keys",
        )

    def _farewell(self) -> str | None:
        """What sshd said when it ended the connection."""
        transport = self.hop.client.get_transport()
        return transport.farewell if isinstance(transport, OrderedTransport) else None

    def _forgetting(self) -> str:
        """The command that removes the host's key from known_hosts."""
        files = self.hop.settings.known_hosts
        return shlex.join(["ssh-keygen", "-R", self.hop.settings.known_as, *(["-f", str(files[0])] if files else [])])

    def not_opened(self, error: Exception) -> ConnectError:
        """For everything else that keeps it from being opened."""
        if self.hop.before is not None and self.hop.client.get_transport() is None:
            return self._not_passed_on(error)
        match error:
            case paramiko.PasswordRequiredException():
                what, hint = "the private key is encrypted", "load it into an agent: ssh-add KEYFILE"
            case paramiko.BadAuthenticationType():
                what = f"SSH login refused: sshd takes {', '.join(error.allowed_types)}, and a login here is by key"
                hint = f"allow keys there (PubkeyAuthentication, AuthenticationMethods); try: {command_to(self.hop)}"
            case paramiko.AuthenticationException():
                what = f"SSH login refused ({self._farewell() or error})"
                hint = f"check the user and key of this node in the inventory; try: {command_to(self.hop)}"
                if "many auth" in what:
                    hint = "the agent offers more keys than sshd takes (MaxAuthTries): IdentitiesOnly yes in ssh_config"
            case UnicodeError():
                what, hint = "that cannot be a host name: a part of it is empty, or longer than 63", "check `host`"
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
                said = self.hop.proxy.said() if self.hop.proxy is not None else ""
                detail = f"{error or type(error).__name__}" + (f"; the ProxyCommand says: {said}" if said else "")
                what, hint = f"SSH failed ({detail})", f"try: {command_to(self.hop, '-v')}"
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
        elif (
            self.hop.before is not None and self.hop.before.is_connected
        ):  # nothing else raises while it stands: paramiko has no type for this
            what = f"no answer within {self.patience_s:g} s"
            hint = "is the machine on, and is its SSH port reachable from the jump host?"
        else:
            what = f"the jump host hung up ({error or type(error).__name__})"
            hint = command_to(self.hop.before or self.hop, "-v")
        return self._failed(what, hint)

    def _failed(self, what: str, hint: str) -> ConnectError:
        return ConnectError(self.node, f"{self.where}: {what}", hint=hint)
