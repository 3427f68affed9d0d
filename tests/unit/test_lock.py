"""The lock's script, run for real under every shell of this machine, and what is made of its answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from clusterctl.errors import ClusterctlError, ExitCode
from clusterctl.lock.cluster import LockedError, LockLostError, outcome_of
from clusterctl.lock.holder import Busy, read_holder
from clusterctl.lock.node import SCRIPT

pytestmark = pytest.mark.timeout(60)
SILENCE_S = 20
NOBODY = 65534
SHELLS = {"dash": ["dash"], "bash": ["bash", "--posix"], "busybox": ["busybox", "sh"]}


@pytest.fixture(params=[name for name in SHELLS if shutil.which(name)])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="clusterctl-test-", dir="/tmp"))
    made = Place(folder, request.param)
    yield made
    for node in made.started:
        node.kill()
    shutil.rmtree(folder)


class Place:
    """A node's /tmp and its users' homes, in a folder of this machine."""

    def __init__(self, folder: Path, shell: str) -> None:
        folder.chmod(0o755)
        self.folder, self.shell = folder, SHELLS[shell]
        self.tmp = folder / "tmp"
        self.tmp.mkdir()
        self.tmp.chmod(0o1777)
        self.lock = self.tmp / "clusterctl-demo.lock"
        self.path = os.environ["PATH"]
        if shell == "busybox":
            self.path = self._applets()
        self.started: list[Script] = []

    def _applets(self) -> str:
        """Busybox's own tools before all others."""
        folder, busybox = self.folder / "bin", shutil.which("busybox")
        assert busybox is not None
        folder.mkdir()
        listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True, timeout=10).stdout
        for applet in listed.split():
            (folder / applet).symlink_to(busybox)
        return f"{folder}:{os.environ['PATH']}"

    def script(self, *, uid: int | None = None, silence_s: float = SILENCE_S, code: bytes = SCRIPT) -> Script:
        home = self.folder / f"home-{uid or 0}"
        home.mkdir(exist_ok=True)
        if uid is not None:
            os.chown(home, uid, uid)
        self.started.append(Script(self, home, uid, silence_s, code))
        return self.started[-1]

    def held(self, **options: object) -> Script:
        script = self.script(**options)  # type: ignore[arg-type]
        assert script.ask('try "who": "a"}') == "locked"
        return script

    def history(self, uid: int = 0) -> list[dict[str, object]]:
        file = self.folder / f"home-{uid}" / ".local/state/clusterctl/demo.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def history_of(self, count: int) -> list[dict[str, object]]:
        """The history, when it has so many records: they are written beside everything else."""
        deadline = time.monotonic() + 10
        while len(self.history()) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.history()


class Script:
    """The script on a node, spoken with as clusterctl/lock.py does."""

    def __init__(self, place: Place, home: Path, uid: int | None, silence_s: float, code: bytes) -> None:
        argv = [*place.shell, "-s", "--", str(place.lock), "demo", str(silence_s)]
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"HOME": str(home), "PATH": place.path},
            cwd="/",
            user=uid,
            group=uid,
            extra_groups=[] if uid is not None else None,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.send(code)
        self.first = self.line()

    def send(self, data: bytes) -> None:
        self.stdin.write(data)
        self.stdin.flush()

    def line(self) -> str:
        return self.stdout.readline().decode().rstrip("\n")

    def ask(self, request: str) -> str:
        self.send(f"{request}\n".encode())
        return self.line()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        with suppress(BrokenPipeError):
            self.stdin.close()
        self.stdout.close()


def taken(script: Script) -> str:
    """Try to take it; a shell that was killed a moment ago may have a child that is just letting go of it."""
    deadline = time.monotonic() + 5
    while (answer := script.ask('try "who": "b"}')) != "locked" and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer


def holder(answer: str) -> str:
    word, _, text = answer.partition(" ")
    assert word == "busy", answer
    return str(json.loads(text.partition(" ")[2])["who"])


def test_one_holds_it_and_the_other_is_told_who(place: Place) -> None:
    first, second = place.held(), place.script()
    assert holder(second.ask('try "who": "b"}')) == "a"
    assert json.loads(second.ask("look").removeprefix("holder "))["who"] == "a"
    assert first.ask("end") == "released"
    assert first.process.wait(5) == 0
    assert not place.lock.exists()
    assert second.ask('try "who": "b"}') == "locked"
    assert json.loads(place.lock.read_text())["who"] == "b"
    assert second.ask("unlock") == "unlocked"
    assert second.ask("look") == "holder "
    assert list(place.tmp.iterdir()) == []


def test_who_waits_is_woken(place: Place) -> None:
    first, second, third = place.held(), place.script(), place.script()
    assert second.ask('try "who": "b"}').startswith("busy")
    second.send(b"wait\n")
    third.send(b"wait\n")
    assert second.ask("beat 7") == "beat 7", "it can be spoken with while it waits"
    assert third.ask("unlock") == "unlocked", "it can give up"
    third.kill()
    first.ask("end")
    assert second.line() == "free"
    assert second.ask('try "who": "b"}') == "locked"
    assert json.loads(place.lock.read_text())["who"] == "b"


def test_the_end_of_the_channel_frees_it_and_is_put_down(place: Place) -> None:
    first, second = place.held(), place.script()
    assert first.ask('begin "event": "cut-off", "run": "r"}') == "begun"
    second.send(b"wait\n")
    first.stdin.close()
    assert second.line() == "free"
    assert first.process.wait(5) == 3
    assert [(each["event"], each["reason"]) for each in place.history_of(1)] == [("cut-off", "eof")]
    second.ask("unlock")
    assert list(place.tmp.iterdir()) == []


def test_silence_frees_it_and_signs_of_life_keep_it(place: Place) -> None:
    first = place.held(silence_s=1)
    first.ask('begin "event": "cut-off", "run": "r"}')
    for number in range(8):
        assert first.ask(f"beat {number}") == f"beat {number}"
        time.sleep(0.2)
    began = time.monotonic()
    assert first.process.wait(5) == 3
    assert 0.5 < time.monotonic() - began < 2
    assert not place.lock.exists()
    assert [each["reason"] for each in place.history_of(1)] == ["silence"]


def test_without_a_beginning_nothing_is_put_down(place: Place) -> None:
    first = place.held()
    first.stdin.close()
    first.process.wait(5)
    assert place.history() == []


def test_what_a_killed_one_leaves_is_taken_over(place: Place) -> None:
    first, second = place.held(), place.script()
    first.kill()
    assert place.lock.exists()
    assert taken(second) == "locked", "nothing of the first holds on to it"
    assert json.loads(place.lock.read_text())["who"] == "b"
    second.ask("end")
    assert list(place.tmp.iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "dangling", "folder", "fifo", "hard link"])
def test_what_is_no_lock_is_not_touched(place: Place, kind: str) -> None:
    target = place.folder / "precious"
    target.write_text("precious")
    match kind:
        case "link":
            place.lock.symlink_to(target)
        case "dangling":
            place.lock.symlink_to(place.folder / "made")
        case "folder":
            place.lock.mkdir()
        case "fifo":
            os.mkfifo(place.lock)
        case _:
            os.link(target, place.lock)
    answer = place.script().ask('try "who": "a"}')
    assert answer.startswith(f"refused {place.lock} "), answer
    assert target.read_text() == "precious"
    assert not (place.folder / "made").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be two users")
@pytest.mark.parametrize(("one", "other"), [(None, NOBODY), (NOBODY, None), (NOBODY, NOBODY - 1)])
def test_different_logins_exclude_each_other(place: Place, one: int | None, other: int | None) -> None:
    first, second = place.held(uid=one), place.script(uid=other)
    assert holder(second.ask('try "who": "b"}')) == "a"
    first.kill()
    assert taken(second) == "locked", "also over what another login's killed one left"
    third = place.script(uid=one)
    assert holder(third.ask('try "who": "a"}')) == "b"
    second.ask("end")
    if place.lock.exists():  # in a sticky directory, another login's file: it says nothing more
        assert other is not None
        assert place.lock.read_text() == ""
    assert third.ask('try "who": "a"}') == "locked"
    third.ask("end")
    assert list(place.tmp.iterdir()) == []


def test_records_are_kept_privately(place: Place) -> None:
    script = place.held()
    assert script.ask('record "event": "begin", "run": "r", "command": "it\'s \\\\ $(id) `id`"}') == "recorded"
    record = place.history()[0]
    assert record["command"] == "it's \\ $(id) `id`"
    assert abs(float(str(record["t"])) - time.time()) < 60
    state = place.folder / "home-0/.local/state/clusterctl"
    assert (state.stat().st_mode & 0o777, (state / "demo.jsonl").stat().st_mode & 0o777) == (0o700, 0o600)


def test_the_history_stays_small_and_a_torn_line_spoils_no_other(place: Place) -> None:
    script = place.held()
    state = place.folder / "home-0/.local/state/clusterctl"
    state.mkdir(parents=True)
    (state / "demo.jsonl").write_text('{"t": 1, "run": "old"}\n' * 1200 + '{"t": 2, "ru')
    assert script.ask('record "run": "new"}') == "recorded"
    lines = (state / "demo.jsonl").read_text().splitlines()
    assert len(lines) == 1000
    assert lines[-2] == '{"t": 2, "ru'
    assert json.loads(lines[-1])["run"] == "new"
    assert [file.name for file in state.iterdir()] == ["demo.jsonl"]


def test_a_home_that_cannot_be_written_keeps_no_history_and_the_lock_all_the_same(place: Place) -> None:
    (place.folder / "home-0").mkdir()
    (place.folder / "home-0/.local").write_text("a file where the directory should be")
    script = place.held()
    assert script.ask('record "run": "r"}').startswith("unrecorded ")
    assert script.ask("end") == "released"


def test_a_tool_that_is_missing_is_named(place: Place) -> None:
    assert place.script().first == "ready"
    without = SCRIPT.replace(b"for tool in flock", b"for tool in no-such-flock")
    assert place.script(code=without).first == "missing no-such-flock"


def test_what_a_lock_says_is_shown_as_plain_text() -> None:
    said = {"run": "r", "who": "a\x1b[2J@b", "pid": 7, "command": "up\n" + "x" * 900, "t": 1_700_000_000}
    found = read_holder(json.dumps(said))
    assert found is not None
    assert "\x1b" not in found.who
    assert len(found.command) == 500
    assert found.sentence(1_700_000_180).endswith("since 2023-11-14T22:13:20Z (3 min ago)")
    assert read_holder("") is None
    assert read_holder("[1]") is None
    assert str(Busy(read_holder('{"t": "x", "pid": "y"}'), 0)) == "somebody is running `clusterctl`"


def test_errors_say_who_and_what_next() -> None:
    busy = {"node1": Busy(read_holder('{"who": "a@b", "command": "up", "t": 1}'), 61), "node2": Busy(None, 0)}
    error = LockedError("demo", busy, waited_s=None)
    assert error.exit_code is ExitCode.LOCKED
    assert int(error.exit_code) == 6
    assert "node1: a@b has been running `up` since 1970-01-01T00:00:01Z (60 s ago)" in error.message
    assert error.hint is not None
    assert "--wait" in error.hint
    assert "--wait" not in str(LockedError("demo", busy, waited_s=5).hint)
    assert "still, after 5 s" in LockedError("demo", busy, waited_s=5).message
    assert "node2: cut" in LockLostError("demo", {"node2": "cut"}).message


def test_how_a_run_ended_in_one_line() -> None:
    assert outcome_of(KeyboardInterrupt()) == "interrupted"
    listed = ClusterctlError("starting failed on 2 nodes:\n  node1: x\n  node2: y")
    assert outcome_of(listed) == "failed: starting failed on 2 nodes: node1: x"
    assert outcome_of(ClusterctlError("")) == "failed: ClusterctlError"
    assert outcome_of(ValueError()) == "failed: ValueError"
