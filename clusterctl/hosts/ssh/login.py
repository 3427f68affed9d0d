"""The keys that a login is tried with, in OpenSSH's order."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import paramiko
from paramiko.auth_strategy import AuthSource, AuthStrategy, InMemoryPrivateKey, OnDiskPrivateKey, SourceResult

from clusterctl.hosts.ssh.openssh import Hop
from clusterctl.hosts.ssh.transport import OrderedTransport

KINDS = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)


class KeysInOrder(AuthStrategy):
    """First the agent's keys that are among the files, then its others, then the files that the agent does not have.

    That is the order of OpenSSH's pubkey_prepare (sshconnect2.c, 9.2). sshd counts every key that it refuses
    (MaxAuthTries, 6 by default), so the order decides whether a login comes about.
    """

    def __init__(self, hop: Hop) -> None:
        super().__init__(ssh_config=paramiko.SSHConfig())
        self._hop = hop
        self.encrypted: list[Path] = []
        """Files that could not be used without a passphrase."""
        self.unusable: list[str] = []
        """Files that are there and could not be used, each with the reason."""

    def get_sources(self) -> Iterator[AuthSource]:
        """The keys; files are read when it is their turn."""
        user, files = self._hop.user, [file for file in self._hop.identity_files if file.exists()]
        publics = {public: file for file in files if (public := _public_half(file)) is not None}
        held = _agent_keys() if self._hop.agent else ()
        listed = [key for key in held if key.get_base64() in publics]
        for key in listed if self._hop.identities_only else [*listed, *(key for key in held if key not in listed)]:
            yield InMemoryPrivateKey(username=user, pkey=key)
        done = {publics[key.get_base64()] for key in listed}
        for file in files:
            if file not in done:
                yield from self._of_file(file)

    def _of_file(self, file: Path) -> Iterator[AuthSource]:
        try:
            key = _private_key(file)
        except paramiko.PasswordRequiredException:
            self.encrypted.append(file)
            return
        except OSError as error:
            self.unusable.append(f"{file}: {error.strerror}")
            return
        if key is None:
            if "PRIVATE KEY" in _text(file):
                self.unusable.append(f"{file} is of a kind that is not supported, or damaged")
            return
        if (certificate := self._certificate_of(file, key)) is not None:
            key.load_certificate(str(certificate))
        yield OnDiskPrivateKey(username=self._hop.user, source="ssh-config", path=file, pkey=key)

    def _certificate_of(self, file: Path, key: paramiko.PKey) -> Path | None:
        """A CertificateFile that is for this key, else the one that lies beside it."""
        beside = file.with_name(f"{file.name}-cert.pub")
        for path in (*self._hop.certificate_files, beside):
            if path.exists() and key.get_base64() == _certified_key(path):
                return path
        return None

    def authenticate(self, transport: paramiko.Transport) -> list[SourceResult]:
        """Raises AuthenticationException with the reason in one line, PasswordRequiredException where only a passphrase
        is missing."""
        refused = 0
        for source in self.get_sources():
            try:
                return [SourceResult(source, source.authenticate(transport))]
            except paramiko.BadAuthenticationType as error:
                raise paramiko.AuthenticationException(f"keys are not accepted, only {error.allowed_types}") from error
            except paramiko.AuthenticationException:
                refused += 1
            except (paramiko.SSHException, EOFError) as error:
                if not isinstance(transport, OrderedTransport) or not transport.farewell:
                    raise
                raise paramiko.AuthenticationException(f"{transport.farewell}; {_keys(refused)} refused") from error
        locked = [f"{file} is encrypted" for file in self.encrypted]
        if locked and not refused:
            raise paramiko.PasswordRequiredException(locked[0])
        absent = ", ".join(str(file) for file in self._hop.identity_files if not file.exists())
        nothing = f"no key to log in with: no {absent}" if absent else "no key to log in with"
        reasons = [f"{_keys(refused)} refused" if refused else nothing, *locked, *self.unusable]
        raise paramiko.AuthenticationException("; ".join(reasons))


def _keys(count: int) -> str:
    return f"{count} key{'s' if count != 1 else ''}"


def _private_key(file: Path) -> paramiko.PKey | None:
    """The key in the file; None where it is none of the kinds. Raises PasswordRequiredException, OSError."""
    for kind in KINDS:
        try:
            return kind.from_private_key_file(str(file))
        except paramiko.PasswordRequiredException:
            raise
        except (paramiko.SSHException, ValueError, IndexError):
            continue  # another kind, or damaged
    return None


def _agent_keys() -> tuple[paramiko.AgentKey, ...]:
    try:
        return tuple(paramiko.Agent().get_keys())
    except (paramiko.SSHException, OSError):
        return ()


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _public_half(file: Path) -> str | None:
    """base64 of the public key of an identity file: of the file beside it, or its own where it is a public key, as
    OpenSSH takes it for one that only the agent has."""
    for path in (file.with_name(f"{file.name}.pub"), file):
        words = _text(path).split()
        if len(words) >= 2 and "-----" not in words[0]:
            return words[1]
    return None


def _certified_key(path: Path) -> str | None:
    """base64 of the public key that a certificate is for."""
    try:
        blob = paramiko.pkey.PublicBlob.from_file(str(path))
        message = paramiko.Message(blob.key_blob)
        kind = message.get_text().removesuffix("-cert-v01@openssh.com")
        message.get_binary()  # the nonce
        plain = paramiko.Message()
        plain.add_string(kind)
        plain.add_string(message.get_binary())
    except (OSError, ValueError, paramiko.SSHException):
        return None
    return base64.b64encode(plain.asbytes()).decode()
