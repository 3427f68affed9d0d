"""What known_hosts says of a host: names, markers, and lines that cannot be read. Keys made by OpenSSH 9.2."""

from __future__ import annotations

import pytest

from clusterctl.hosts.ssh.known_hosts import known_keys

OWN = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKEBOwcVc6QEK1XK7NriLCnk0o8ZNx8rtaPVPVRFvTy1"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAII8AfQRgSSZA8km5sHJEczlst6kFm7T1gmtLz7kd1A13"
ECDSA = (
    "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBO/9cfEDguCE3zWpdc1bf4wlY94WuKlQ4Vz3vVft"
    "0SjHBu7PsXnuWFsrpF/SzKzMuBJAEHD/0DUGkWxoej6G0oo="
)
HOST = "[gpu1.example.com]:2222"
HASHED = "|1|I4tyGS/YiV6GBS3R7D/xC4aSfVo=|/x7kQVmYeiIbGhxXdgzngjf2Py0="
"""HOST as `ssh-keygen -H` of OpenSSH 9.2 hashed it."""

UNREADABLE = {
    "not base64 of whole bytes": f"{HOST} {OWN[:-3]}",
    "a key cut short": f"{HOST} {OWN[:40]}",
    "a key of the wrong length": f"{HOST} {OWN[:-4]}",
    "no key": f"{HOST} ssh-ed25519",
    "a type that nobody knows": f"{HOST} ssh-tomorrow {OWN.split()[1]}",
    "a marker that nobody knows": f"@tomorrow {HOST} {OTHER}",
    "a marker alone": "@revoked",
    "two markers": f"@revoked @cert-authority {HOST} {OWN}",
    "a damaged hash": f"|1|AAAA {OTHER}",
    "a hash of nothing": f"|1||| {OTHER}",
    "a comment": f"# {HOST} {OTHER}",
    "an empty line": "",
    "not text": "\ufffd\ufffd \x00",
}


def said(host: str, *lines: str) -> tuple[list[str], list[str], bool]:
    """Trusted and revoked keys as OpenSSH writes them, and whether an authority vouches for the host."""
    known = known_keys(lines, host)
    trusted, revoked = (
        [f"{key.get_name()} {key.get_base64()}" for key in keys] for keys in (known.trusted, known.revoked)
    )
    return trusted, revoked, known.certified


@pytest.mark.parametrize("line", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_line_that_cannot_be_read_says_nothing(line: str) -> None:
    assert said(HOST, line, f"{HOST} {OWN}", line) == ([OWN], [], False)


@pytest.mark.parametrize(
    ("names", "host"),
    [
        ("gpu1", "gpu1"),
        ("gpu1", "GPU1"),
        ("GPU1", "gpu1"),
        ("gpu0,gpu1,10.0.0.1", "gpu1"),
        ("*", HOST),
        ("[*.example.com]:2222", HOST),
        ("gpu?", "gpu1"),
        ("gpu*,!gpu2", "gpu1"),
        (HASHED, HOST),
    ],
)
def test_a_line_is_about_the_hosts_that_it_names(names: str, host: str) -> None:
    assert said(host, f"{names} {OWN}") == ([OWN], [], False)


@pytest.mark.parametrize(
    ("names", "host"),
    [
        ("gpu1", "gpu10"),
        ("gpu.", "gpu1"),
        ("gpu1.example.com", HOST),
        (HOST, "gpu1.example.com"),
        ("gpu*,!gpu1", "gpu1"),
        ("!gpu2", "gpu1"),
        ("gpu?", "gpu10"),
        (HASHED, "[gpu1.example.com]:2223"),
    ],
)
def test_a_line_is_not_about_others(names: str, host: str) -> None:
    assert said(host, f"{names} {OWN}") == ([], [], False)


def test_fields_are_apart_by_any_white_space() -> None:
    assert said("gpu1", f"  gpu1\t {OWN.replace(' ', '   ')}  of its own \r") == ([OWN], [], False)


def test_keys_come_in_the_order_of_the_lines() -> None:
    lines = [f"gpu1 {key}" for key in (ECDSA, OTHER, OWN)]
    assert said("gpu1", *lines) == ([ECDSA, OTHER, OWN], [], False)


@pytest.mark.parametrize("revoked_first", [True, False])
def test_a_revoked_key_is_not_trusted_whatever_else_is_said_of_it(revoked_first: bool) -> None:
    lines = [f"@revoked * {OWN}", f"{HASHED} {OWN}", f"{HOST} {ECDSA}"]
    assert said(HOST, *(lines if revoked_first else reversed(lines))) == ([ECDSA], [OWN], False)


def test_a_key_is_revoked_only_for_the_hosts_that_the_line_names() -> None:
    assert said("gpu1", f"@revoked gpu2 {OWN}", f"gpu1 {OWN}") == ([OWN], [], False)


def test_an_authoritys_key_is_no_hosts_key() -> None:
    assert said("gpu1", f"@cert-authority gpu* {OWN}") == ([], [], True)
    assert said("login1", f"@cert-authority gpu* {OWN}", f"login1 {OTHER}") == ([OTHER], [], False)
