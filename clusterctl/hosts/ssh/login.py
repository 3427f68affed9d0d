"""Which keys log in, and in which order: OpenSSH's (pubkey_prepare in its sshconnect2.c).

Certificates that ssh_config names come first, then keys of the agent that it names, the agent's others, and the files
that no agent has. Nobody is asked for a passphrase or a password.
"""

from __future__ import annotations

import base64
import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko
from paramiko.agent import AgentKey, AgentSSH

from clusterctl.hosts.ssh.certificates import SUFFIX
from clusterctl.hosts.ssh.settings import Settings

AGENT_S = 10
"""Seconds for an agent to answer; one that asks a person for each signature has sshd's LoginGraceTime."""

_KINDS: tuple[type[paramiko.PKey], ...] = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)


class Agent(AgentSSH):
    """The agent at a socket. paramiko's own Agent knows only the one of $SSH_AUTH_SOCK."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(AGENT_S)
            connection.connect(str(path))
            self._connect(connection)  # type: ignore[attr-defined]
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Hang up."""
        self._close()  # type: ignore[attr-defined]


@dataclass(frozen=True)
class _File:
    """An identity file: its public half, and where the private one is."""

    path: Path
    public: bytes | None
    """None where it cannot be told: then only its private half says which key it is."""


class Login:
    """Logs in at one machine. Given to `SSHClient.connect` as `auth_strategy`: paramiko calls `authenticate`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def authenticate(self, transport: paramiko.Transport) -> None:
        """Log in. Raises AuthenticationException, PasswordRequiredException or SSHException where no key does."""
        user = self._settings.user
        try:
            transport.auth_none(user)
            return
        except paramiko.BadAuthenticationType as error:
            if "publickey" not in error.allowed_types:
                raise
        with contextlib.ExitStack() as open_agent:
            failure = self._tried(transport, self._candidates(open_agent))
        if failure is not None:
            raise failure

    def _tried(
        self, transport: paramiko.Transport, candidates: Iterator[paramiko.PKey | Exception]
    ) -> Exception | None:
        """Try keys in turn until one is accepted; what to say when none is."""
        failures: list[Exception] = []
        for key in candidates:
            if isinstance(key, Exception):
                failures.insert(0, key)
                continue
            try:
                more = transport.auth_publickey(self._settings.user, key)
            except paramiko.AuthenticationException as error:
                failures.append(error)
                if not transport.is_active():  # sshd hung up: too many keys, its MaxAuthTries
                    raise
                continue
            if not more:
                return None
            text = f"the key was accepted, and sshd wants more: {', '.join(more)}"
            failures.insert(0, paramiko.AuthenticationException(text))
        return (
            failures[0] if failures else paramiko.AuthenticationException("no key to try: no identity file, no agent")
        )

    def _candidates(self, open_agent: contextlib.ExitStack) -> Iterator[paramiko.PKey | Exception]:
        """Keys in the order in which they are tried; an exception in place of one that cannot be used."""
        settings = self._settings
        if not settings.keys_allowed:
            yield paramiko.AuthenticationException("ssh_config says PubkeyAuthentication no")
            return
        files = [_File(path, public_half(path)) for path in settings.identity_files]
        held = _agents_keys(settings.agent, open_agent)
        by_public = {key.asbytes(): key for key in held}
        for path in settings.certificate_files:
            yield from self._allowed(_certified(path, files, by_public))
        named = {file.public for file in files}
        ours = [key for key in held if key.asbytes() in named]
        others = [] if settings.identities_only else [key for key in held if key.asbytes() not in named]
        for key in (*ours, *others):
            yield from self._allowed(key)
        for file in files:
            if file.public not in by_public and (file.path == settings.asked.key or file.path.exists()):
                yield from self._allowed(_private(file.path))
            if not settings.certificate_files:
                beside = Path(f"{_private_path(file.path)}-cert.pub")
                if beside.exists():
                    yield from self._allowed(_certified(beside, [file], by_public))

    def _allowed(self, key: paramiko.PKey | Exception | None) -> Iterator[paramiko.PKey | Exception]:
        if key is None:
            return
        if isinstance(key, paramiko.PKey):
            blob = getattr(key, "public_blob", None)
            kind = blob.key_type if blob is not None else key.get_name()
            algorithms = self._settings.user_key_algorithms
            if algorithms is not None and not _among(kind, algorithms):
                return
            if isinstance(key, paramiko.RSAKey) and key.get_bits() < self._settings.least_rsa_bits:
                return
        yield key


def _among(kind: str, algorithms: tuple[str, ...]) -> bool:
    """Whether a key of this type may be used: RSA keys sign in two ways, which have names of their own."""
    names = {kind}
    if kind == "ssh-rsa":
        names = {"rsa-sha2-256", "rsa-sha2-512"}
    elif kind == f"ssh-rsa{SUFFIX}":
        names = {f"rsa-sha2-256{SUFFIX}", f"rsa-sha2-512{SUFFIX}"}
    return not names.isdisjoint(algorithms)


def _agents_keys(path: Path | None, open_agent: contextlib.ExitStack) -> list[AgentKey]:
    """The agent's keys; none where no agent answers, as for OpenSSH."""
    if path is None:
        return []
    try:
        agent = Agent(path)
        open_agent.callback(agent.close)
        return list(agent.get_keys())
    except (OSError, paramiko.SSHException):
        return []


def _certified(path: Path, files: list[_File], held: dict[bytes, AgentKey]) -> paramiko.PKey | Exception | None:
    """The private key of a certificate, with the certificate: of an identity file, or the agent's."""
    try:
        certificate = paramiko.pkey.PublicBlob.from_file(str(path))
    except (OSError, ValueError, IndexError, paramiko.SSHException) as error:
        return None if isinstance(error, FileNotFoundError) else paramiko.SSHException(f"cannot read {path}: {error}")
    public = _plain(certificate.key_type, certificate.key_blob)
    holder: paramiko.PKey | Exception | None = held.get(public) if public is not None else None
    if holder is None:
        holder = next((_private(file.path) for file in files if file.public == public), None)
    if isinstance(holder, paramiko.PKey):
        if isinstance(holder, AgentKey):  # it is tried by itself too
            holder = AgentKey(holder.agent, holder.blob, holder.comment)
        holder.public_blob = certificate
    return holder


def _plain(kind: str, certificate: bytes) -> bytes | None:
    """The public key within a certificate."""
    for key_class in _KINDS:
        with contextlib.suppress(paramiko.SSHException, ValueError):
            return key_class(paramiko.Message(certificate)).asbytes()
    return None


def _private_path(path: Path) -> Path:
    """Where the private half is, also for an IdentityFile that names the public one (its key is in an agent then)."""
    return path.with_suffix("") if path.suffix == ".pub" else path


def _private(path: Path) -> paramiko.PKey | Exception | None:
    """The private key in a file; None where there is no file, an exception where it cannot be used."""
    path = _private_path(path)
    failure: Exception | None = None
    for kind in _KINDS:
        try:
            return kind.from_private_key_file(str(path))
        except FileNotFoundError:
            return paramiko.SSHException(f"there is no key file {path}")
        except paramiko.PasswordRequiredException as error:
            return error
        except (OSError, ValueError, paramiko.SSHException) as error:
            failure = paramiko.SSHException(f"cannot read the key file {path}: {error}")
    return failure


def public_half(path: Path) -> bytes | None:
    """The public key of an identity file, as OpenSSH finds it: the file itself where it is public, the clear part of a
    private file, or the .pub beside it."""
    for candidate in (path, Path(f"{path}.pub")):
        try:
            text = candidate.read_bytes()
        except OSError:
            continue
        words = text.split(None, 2)
        with contextlib.suppress(ValueError, IndexError):
            if text.startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----"):
                return _clear_part(text)
            if not text.startswith(b"-----") and len(words) > 1:
                return base64.b64decode(words[1], validate=True)
    found = _private(path)
    return found.asbytes() if isinstance(found, paramiko.PKey) else None


def _clear_part(text: bytes) -> bytes:
    """The public key in a private file of OpenSSH's own format, which is not encrypted (PROTOCOL.key)."""
    body = base64.b64decode(b"".join(text.split(b"-----")[2].split()))
    message = paramiko.Message(body[len(b"openssh-key-v1\0") :])
    for _ in range(3):  # cipher, derivation of its key, options
        message.get_binary()
    message.get_int()
    return message.get_binary()
