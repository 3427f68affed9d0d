"""Whether a host's key is trusted: the one judge of it. paramiko's own look-up in known_hosts is not used.

The order is OpenSSH's (check_host_key in its sshconnect.c): revoked, a certificate, the key itself; and off port 22 the
name without the port, where the one with it says nothing.
"""

from __future__ import annotations

import base64
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import paramiko

from clusterctl.hosts.ssh.certificates import SUFFIX, authority_of, certificate_of, refusal
from clusterctl.hosts.ssh.known_hosts import KnownKeys, known_keys, pin
from clusterctl.hosts.ssh.settings import SSH_PORT, Settings

KRL = b"SSHKRL\n\0"
"""How a key revocation list in OpenSSH's own format begins (PROTOCOL.krl)."""

REVOKED_S = 20
"""Seconds for ssh-keygen to look keys up in such a list."""


class UntrustedHostKeyError(paramiko.SSHException):
    """An unknown or revoked key, or one that cannot be judged; told from other SSH failures by its type."""

    def __init__(self, hostname: str, key: paramiko.PKey, why: str = "") -> None:
        super().__init__(f"untrusted host key of {hostname}")
        self.key = key
        self.why = why
        """What else there is to say, such as why a certificate does not count."""


@dataclass(frozen=True)
class Known:
    """What known_hosts says of one host."""

    named: KnownKeys
    """Under its name, with its port off port 22."""
    without_port: KnownKeys
    """Under its name alone: it counts off port 22, where the other says nothing."""

    @property
    def revoked(self) -> tuple[paramiko.PKey, ...]:
        """Keys that must never be its own."""
        return (*self.named.revoked, *self.without_port.revoked)

    @property
    def authorities(self) -> tuple[paramiko.PKey, ...]:
        """Who may vouch for it."""
        return (*self.named.authorities, *self.without_port.authorities)

    @property
    def trusted(self) -> tuple[paramiko.PKey, ...]:
        """Its own keys."""
        return self.named.trusted or self.without_port.trusted

    def order(self, algorithms: tuple[str, ...]) -> tuple[str, ...]:
        """Algorithms whose keys can be judged first: OpenSSH's order_hostkeyalgs."""
        kinds = {key.get_name() for key in self.trusted}

        def judged(algorithm: str) -> bool:
            plain = algorithm.removesuffix(SUFFIX)
            kind = "ssh-rsa" if plain.startswith("rsa-") else plain
            return (algorithm.endswith(SUFFIX) and bool(self.authorities)) or kind in kinds

        return tuple(sorted(algorithms, key=lambda algorithm: not judged(algorithm)))


def known_of(settings: Settings) -> Known:
    """Look a host up in all of its known_hosts files. Raises OSError for one that is there and cannot be read."""
    files = (*settings.system_known_hosts, *settings.known_hosts)
    lines = [
        line.decode(errors="replace")
        for file in files
        if file.exists() and not file.is_char_device()
        for line in file.read_bytes().splitlines()
    ]
    ported = settings.host_key_alias is None and settings.port != SSH_PORT
    nothing = KnownKeys((), (), ())
    return Known(known_keys(lines, settings.known_as), known_keys(lines, settings.hostname) if ported else nothing)


class Judge(paramiko.MissingHostKeyPolicy):
    """Judges the key that a host shows. paramiko asks it for every host, as it is given no known keys of its own."""

    def __init__(self, settings: Settings, known: Known, *, accept_new: bool) -> None:
        self._settings = settings
        self._known = known
        self._accept_new = accept_new

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        """Accept it, or pin it. Raises UntrustedHostKeyError, or BadHostKeyException for another one than is known."""
        certificate = certificate_of(key)
        self._refuse_revoked(hostname, key, certificate)
        if isinstance(key, paramiko.RSAKey) and key.get_bits() < self._settings.least_rsa_bits:
            raise UntrustedHostKeyError(hostname, key, f"it has only {key.get_bits()} bits (RequiredRSASize)")
        why = ""
        if certificate is not None and self._known.authorities:
            name = self._settings.host_key_alias or self._settings.hostname
            against = refusal(certificate, name, self._known.authorities, self._settings.ca_algorithms)
            if against is None:
                return
            why = f"its certificate does not count: {against}"
        elif self._known.authorities:
            why = "known_hosts has an @cert-authority for it, and it showed no certificate"
        if key in self._known.trusted:
            return
        if self._known.trusted:
            same = [known for known in self._known.trusted if known.get_name() == key.get_name()]
            raise paramiko.BadHostKeyException(hostname, key, (same or self._known.trusted)[0])
        if not self._accept_new or not self._settings.known_hosts:
            raise UntrustedHostKeyError(hostname, key, why)
        pin(self._settings.known_hosts[0], self._settings.known_as, key)

    def _refuse_revoked(self, hostname: str, key: paramiko.PKey, certificate: bytes | None) -> None:
        blobs = [key.asbytes()]
        if certificate is not None:
            try:
                blobs.append(authority_of(certificate))
            except ValueError as error:
                raise UntrustedHostKeyError(hostname, key, f"its certificate cannot be read ({error})") from error
        if any(revoked.asbytes() in blobs for revoked in self._known.revoked):
            raise UntrustedHostKeyError(hostname, key, "revoked by an @revoked line")
        file = self._settings.revoked_host_keys
        if file is not None and (against := _revoked_in(file, [*blobs, *([certificate] if certificate else [])])):
            raise UntrustedHostKeyError(hostname, key, against)


def _revoked_in(file: Path, blobs: list[bytes]) -> str | None:
    """Why these keys count as revoked by RevokedHostKeys, a list of keys or a KRL; None when they do not. A file that
    cannot be read revokes all, as for OpenSSH."""
    try:
        text = file.read_bytes()
        revoked = _revoked_by_krl(file, blobs) if text.startswith(KRL) else _revoked_by_list(text, blobs)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return f"perhaps revoked: {file} (RevokedHostKeys) cannot be read: {error}"
    return f"revoked by {file} (RevokedHostKeys)" if revoked else None


def _revoked_by_list(text: bytes, blobs: list[bytes]) -> bool:
    """Whether a line, `type base64 …`, has one of them."""
    encoded = {base64.b64encode(blob) for blob in blobs}
    lines = (line.split() for line in text.splitlines())
    return any(len(words) > 1 and not words[0].startswith(b"#") and words[1] in encoded for words in lines)


def _revoked_by_krl(file: Path, blobs: list[bytes]) -> bool:
    """Whether ssh-keygen finds one of them in a KRL. Raises OSError, TimeoutExpired, ValueError."""
    with tempfile.NamedTemporaryFile("wb", suffix=".pub") as keys:
        for blob in blobs:
            kind = paramiko.Message(blob).get_text()
            keys.write(f"{kind} ".encode() + base64.b64encode(blob) + b"\n")
        keys.flush()
        done = subprocess.run(
            ["ssh-keygen", "-Q", "-f", str(file), keys.name], capture_output=True, timeout=REVOKED_S, check=False
        )
    if done.returncode != 0 and b"REVOKED" not in done.stdout:
        raise ValueError(done.stderr.decode(errors="replace").strip())
    return done.returncode != 0
