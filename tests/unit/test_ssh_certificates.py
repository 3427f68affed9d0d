"""What a host's certificate says, and whether it counts. Certificates made by ssh-keygen."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import paramiko
import pytest

from clusterctl.hosts.ssh.certificates import authority_of, refusal
from tests.unit.ssh_site import run
from tests.unit.sshd import keygen

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")

KEYS = {"ed25519": ("ed25519", "256"), "ecdsa": ("ecdsa", "521"), "rsa": ("rsa", "3072")}


def public(path: Path) -> paramiko.PKey:
    kind, data = path.with_suffix(".pub").read_text().split()[:2]
    return paramiko.PKey.from_type_string(kind, base64.b64decode(data))


def made(folder: Path, *options: str, authority: str = "ed25519", host: str = "ed25519") -> tuple[bytes, paramiko.PKey]:
    """A certificate, and the key of the authority that signed it."""
    for name, kind in (("ca", authority), ("host", host)):
        run("ssh-keygen", "-q", "-t", KEYS[kind][0], "-b", KEYS[kind][1], "-N", "", "-f", str(folder / name))
    run("ssh-keygen", "-q", "-s", str(folder / "ca"), "-I", "tested", *options, str(folder / "host.pub"))
    text = (folder / "host-cert.pub").read_text().split()[1]
    return base64.b64decode(text), public(folder / "ca")


@pytest.mark.parametrize("authority", KEYS)
@pytest.mark.parametrize("host", KEYS)
def test_a_certificate_for_the_host_counts(authority: str, host: str, tmp_path: Path) -> None:
    certificate, ca = made(tmp_path, "-h", "-n", "gpu1,gpu1.test", authority=authority, host=host)
    assert authority_of(certificate) == ca.asbytes()
    assert refusal(certificate, "GPU1.test", [ca], None) is None


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("-h", "-n", "gpu2"), "it is for gpu2, not for gpu1"),
        (("-h", "-n", "gpu1", "-V", "20200101:20210101"), "it has expired"),
        (("-h", "-n", "gpu1", "-V", "+1d:+2d"), "it is not valid yet"),
        (("-n", "gpu1"), "it is a user's certificate"),
        (("-h", "-n", "gpu1", "-O", "critical:x@example.com=y"), "it has critical options"),
    ],
)
def test_a_certificate_that_does_not_count_says_why(options: tuple[str, ...], why: str, tmp_path: Path) -> None:
    certificate, ca = made(tmp_path, *options)
    assert str(refusal(certificate, "gpu1", [ca], None)).startswith(why)


def test_another_authority_counts_for_nothing(tmp_path: Path) -> None:
    certificate, _ = made(tmp_path, "-h", "-n", "gpu1")
    keygen(tmp_path / "other")
    assert "authority is none of those" in str(refusal(certificate, "gpu1", [public(tmp_path / "other")], None))


@pytest.mark.parametrize("algorithm", ["ssh-rsa", "rsa-sha2-256", "rsa-sha2-512"])
def test_an_authority_that_signs_with_sha1_counts_only_where_that_is_allowed(algorithm: str, tmp_path: Path) -> None:
    certificate, ca = made(tmp_path, "-h", "-n", "gpu1", "-t", algorithm, authority="rsa")
    against = refusal(certificate, "gpu1", [ca], None)
    assert (against is not None) == (algorithm == "ssh-rsa"), against
    assert refusal(certificate, "gpu1", [ca], ["ssh-ed25519"]) is not None


def test_a_certificate_that_was_changed_does_not_count(tmp_path: Path) -> None:
    certificate, ca = made(tmp_path, "-h", "-n", "gpu1")
    at = certificate.index(b"gpu1")
    changed = certificate[:at] + b"gpu2" + certificate[at + 4 :]
    assert "cannot be verified" in str(refusal(changed, "gpu2", [ca], None))


@pytest.mark.parametrize("length", [0, 3, 40, 200])
def test_a_certificate_that_was_cut_short_is_no_bug(length: int, tmp_path: Path) -> None:
    certificate, ca = made(tmp_path, "-h", "-n", "gpu1")
    assert refusal(certificate[:length], "gpu1", [ca], None) is not None
