"""What is said when the engine's API breaks, over a real sshd whose `docker` is a script."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusterctl.hosts.engine.engine import EngineError
from clusterctl.hosts.host import Hosts
from tests.unit.sshd import SSHD, Sshd, inventory_of, keygen

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(SSHD is None, reason="no sshd on this machine (Debian: apt-get install openssh-server)"),
]
UNABLE = "the engine cannot be asked to describe itself: "
CLOSED = UNABLE + "its connection was closed before the whole answer was there (was the engine stopped or restarted?)"
Ask = Callable[..., EngineError]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """The error of `docker info` on a node whose `docker system dial-stdio` is the given script."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    key, binaries = tmp_path / "key", tmp_path / "bin"
    keygen(key)
    binaries.mkdir()
    node = Sshd(tmp_path / "node", key, SetEnv=f"PATH={binaries}:/usr/bin:/bin")

    def asked(script: str, *, command_s: float = 20) -> EngineError:
        docker = binaries / "docker"
        docker.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
        docker.chmod(0o755)
        timeouts = {"connect_s": 10, "command_s": command_s}
        described = inventory_of(tmp_path, key, node.known, {"gpu1": node.port}, timeouts)
        with Hosts(described) as hosts, pytest.raises(EngineError) as caught:
            hosts.one("gpu1").engine.info()
        return caught.value

    yield asked
    node.kill()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "echo 'sudo: a password is required' >&2; exit 1",
            UNABLE + "`docker system dial-stdio` ended with exit code 1: sudo: a password is required",
        ),
        ("read line; exit 3", UNABLE + "`docker system dial-stdio` ended with exit code 3"),
        ("read line; echo broken >&2; kill -9 $$", UNABLE + "`docker system dial-stdio` ended: broken"),
        ("read line; exit 0", CLOSED),
        ("read line; kill -9 $$", CLOSED),
        ("read line; printf 'HTTP/1.1 200 OK\\r\\nContent-Length: 50\\r\\n\\r\\n{'", CLOSED),
    ],
    ids=["refused", "failed", "killed with words", "ended", "killed", "half an answer"],
)
def test_why_there_was_no_answer_is_said_in_words(ask: Ask, script: str, said: str) -> None:
    error = ask(script)
    assert error.message == said
    assert error.hint == "on the node: docker version; journalctl -u docker -n 50"


@pytest.mark.parametrize("begun", ["", "printf 'HTTP/1.1 200 OK\\r\\nContent-Length: 50\\r\\n\\r\\n{';"])
def test_an_engine_that_goes_silent_did_not_answer_in_time(ask: Ask, begun: str) -> None:
    error = ask(f"read line; {begun} exec sleep 8", command_s=3)
    assert error.message == "the engine did not answer in time (describe itself)"
