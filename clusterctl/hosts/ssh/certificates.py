"""Certificates of hosts: whether an authority that known_hosts names (`@cert-authority`) vouches for a host's key.

paramiko negotiates them and checks that the host has the key (`Transport._verify_key`), but judges nothing that the
certificate says. That is done here, in the order of OpenSSH's check_host_cert and sshkey_cert_check_host.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence

import paramiko
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import SSHCertificate, SSHCertificateType

SUFFIX = "-cert-v01@openssh.com"
"""What the names of all certificates' types end with."""


def certificate_of(key: paramiko.PKey) -> bytes | None:
    """The certificate that came with a host's key; None where it showed the key alone."""
    blob = getattr(key, "public_blob", None)
    return blob.key_blob if blob is not None and blob.key_type.endswith(SUFFIX) else None


def authority_of(certificate: bytes) -> bytes:
    """The public key that signed it. Raises ValueError for a certificate that cannot be read."""
    key = _read(certificate).signature_key()
    text = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return base64.b64decode(text.split()[1])


def refusal(
    certificate: bytes, host: str, authorities: Sequence[paramiko.PKey], algorithms: Sequence[str] | None
) -> str | None:
    """Why the certificate does not vouch for the host; None when it does.

    `host` is its name without a port, or its HostKeyAlias; `algorithms` are those of CASignatureAlgorithms.
    """
    try:
        read = _read(certificate)
        authority = authority_of(certificate)
        if authority not in [key.asbytes() for key in authorities]:
            return "its authority is none of those in known_hosts"
        read.verify_cert_signature()
        signed_with = _signature_algorithm(certificate)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, LookupError, paramiko.SSHException) as error:
        return f"it cannot be verified ({error or type(error).__name__})"
    if signed_with not in (algorithms or SIGNATURES):
        return f"it is signed with {signed_with}, which CASignatureAlgorithms does not allow"
    return _against(read, host)


def _against(read: SSHCertificate, host: str) -> str | None:
    """What a certificate itself says against its use for this host, now."""
    now = time.time()
    named = ", ".join(name.decode(errors="replace") for name in read.valid_principals)
    doubts = {
        "it is a user's certificate, not a host's": read.type is not SSHCertificateType.HOST,
        "it is not valid yet (are the clocks right?)": now < read.valid_after,
        "it has expired": now >= read.valid_before,
        f"it is for {named}, not for {host}": named and host.lower().encode() not in read.valid_principals,
        "it has critical options that nobody knows": read.critical_options,
    }
    return next((doubt for doubt, holds in doubts.items() if holds), None)


SIGNATURES = (
    "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "rsa-sha2-512", "rsa-sha2-256"
)  # fmt: skip
"""CASignatureAlgorithms where nobody said otherwise; without SHA-1, as in OpenSSH since 8.2."""


def _read(certificate: bytes) -> SSHCertificate:
    kind = paramiko.Message(certificate).get_text()
    read = serialization.load_ssh_public_identity(f"{kind} ".encode() + base64.b64encode(certificate))
    if not isinstance(read, SSHCertificate):
        raise ValueError("not a certificate")
    return read


def _signature_algorithm(certificate: bytes) -> str:
    """The name in its signature, the last field (PROTOCOL.certkeys). It was read before, so it is whole."""
    message = paramiko.Message(certificate)
    kind = message.get_text()
    for _ in range(1 + _KEY_FIELDS[kind.removesuffix(SUFFIX).split("-nistp")[0]]):  # the nonce, and the key
        message.get_binary()
    message.get_int64()  # serial
    message.get_int()  # type
    for _ in range(2):  # key id, principals
        message.get_binary()
    for _ in range(2):  # valid after, valid before
        message.get_int64()
    for _ in range(4):  # critical options, extensions, reserved, the authority's key
        message.get_binary()
    return paramiko.Message(message.get_binary()).get_text()


_KEY_FIELDS = {"ssh-ed25519": 1, "ecdsa-sha2": 2, "ssh-rsa": 2, "rsa-sha2-256": 2, "rsa-sha2-512": 2}
"""Fields of a public key, by the beginning of its type's name."""
