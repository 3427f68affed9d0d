"""Every way to serve, on a lab: does it start, does it say the same, is nothing left; and with --healing, what happens
to its clients when something of it dies. One line for each as it ends.

    python benchmarks/modes.py [--healing] [--only TEXT] [--minutes 60] [--results FILE] [--lab NAME]
    python benchmarks/modes.py --table

What is in the results' file is not done again, so a run that was cut off goes on where it was. --table puts the file
into the record of all such runs (benchmarks/modes.jsonl, which is committed; the last one of each thing stays) and
prints the record as docs/reference/ways-to-serve.md. Needs root; makes a lab of its own (two nodes) and removes it.
Exit code 1 when something was not as it must be, 2 when --only names nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).parents[1]))

from clusterctl.errors import ClusterctlError
from clusterctl.inventory.load import load_inventory
from clusterctl.lab import lab as labs
from clusterctl.lab.lab import Lab, LabOptions
from clusterctl.modes.all import listens_of, ports_of, with_executor
from clusterctl.modes.ports import ranges_of
from tests.lab.conftest import Clusterctl
from tests.lab.during_up import left_behind
from tests.lab.faults import REQUEST_TIMEOUT_S, Fault, Load, NotInjectedError, suffer
from tests.lab.modes import CELLS, TOLERANCE, Cell, apart, healing, logprobs, restarts

PAGE = """\
# Ways to serve, as tried

<!-- Written by `benchmarks/modes.py --table` from what was measured (`make modes`): run it instead of editing. -->

On two nodes of the [lab](../tutorial/first-cluster-in-the-lab.md), which share one machine with two cores: seconds say
little about real machines, and the machine did other work at times. What counts is the column "result": ok means that
`up` ended with 0, every engine gave the log-probabilities of one rank alone within 0.005 ("differs by"), `plan` was
empty, and after `down` nothing was left: no container, volume, port, process, or file in /tmp and /dev/shm. "Declared
ports" is how many ports of the inventory were listened on, by node (head / follower); one that nobody listened on makes
the result. Those of `mp.ports.master` and `mp.ports.data_parallel` are needed while it starts and count where they were
seen then, all others must listen while it serves. "Other ports" counts those of the kernel's choice that listen
while it serves, on any address but the loopback: a firewall between the nodes must let them through. Empty: measured
before the ports were looked at.

Below it what happened to four clients, each with one request at a time and a time-out of 30 s, when something was
killed, stopped, cut off or without power. Recovery counts from the fault, or from the mending of the machine; failed
requests are the outage's, refused at once. "Timed out" are those among them that nobody ended before the client did;
one that outlived its time-out makes the result. A fault that hit nothing is no result. `canary_interval_s` is 2 and
`hang_s` 20: a process that was stopped is called hung after 20 s. With several engines the end of one takes all: vLLM
does not replace one.
"""

RESULTS = Path(".lab/modes.jsonl")
RECORD = Path(__file__).with_name("modes.jsonl")
RECOVERY_DEADLINE_S = 420
LATE_S = 2
"""What a client may take beyond its time-out on a machine that does other work."""
SERVICE_S = 65
"""After a minute of service a failure counts as the first again."""


@dataclass(frozen=True)
class Row:
    """One line of the results: a start, or a fault."""

    cell: str
    fault: str
    """Empty for a start."""
    wrong: tuple[str, ...]
    """What was not as it must be; none: ok."""
    figures: Mapping[str, Any]
    commit: str
    date: str

    def line(self) -> str:
        """As it is printed."""
        what = f"{self.cell}: {self.fault or 'start'}"
        figures = ", ".join(f"{name} {value}" for name, value in self.figures.items())
        return f"{what:<72} {'; '.join(self.wrong) or 'ok'}  ({figures})"


class Results:
    """The file of results, a JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()

    def rows(self) -> list[Row]:
        """All of them; of one thing that was done twice the last."""
        return in_order(read(self._path))

    def add(self, cell: Cell, fault: str, wrong: Sequence[str], figures: Mapping[str, Any]) -> bool:
        """Keep and print one. Returns whether it was ok."""
        row = Row(cell.name, fault, tuple(wrong), figures, self._commit, time.strftime("%Y-%m-%d"))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        print(row.line(), flush=True)
        return not wrong

    def done(self, cell: Cell) -> set[str]:
        """What is known of a cell and was ok: names of faults, and an empty one for its start."""
        return {row.fault for row in self.rows() if row.cell == cell.name and not row.wrong}


def read(path: Path) -> list[Row]:
    """The rows of a file, none where there is no file."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [Row(**json.loads(line)) for line in lines]


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Of one thing that was done twice the last, in the order of the ways to serve."""
    known = list(CELLS)
    last = {(row.cell, row.fault): row for row in rows}.values()
    return sorted(last, key=lambda row: known.index(row.cell) if row.cell in known else len(known))


def recorded(results: Sequence[Row], record: Path) -> list[Row]:
    """The record of all runs with these results in it; written down."""
    rows = in_order([*read(record), *results])
    record.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    return rows


def main() -> int:
    """Run what is left to do, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--healing", action="store_true", help="also break what was started, in every way")
    parser.add_argument("--only", default="", help="only ways to serve whose name contains this (several: a|b)")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin nothing after so many minutes")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--lab", default="modes", help="the lab's name")
    parser.add_argument("--table", action="store_true", help="record the results and print the page; run nothing")
    options = parser.parse_args()
    results = Results(options.results)
    if options.table:
        print("\n".join([PAGE, *tables(recorded(results.rows(), RECORD))]))
        return 0
    cells = [cell for name, cell in CELLS.items() if any(part in name for part in options.only.split("|"))]
    if not cells:
        parser.error(f"--only: no way to serve has {options.only!r} in its name; there are: {', '.join(CELLS)}")
    until = time.monotonic() + options.minutes * 60
    labs.down(options.lab, say=print)
    with TemporaryDirectory() as folder:
        lab = labs.up(options.lab, LabOptions(nodes=2, gpus=2, directory=Path(folder)), say=print)
        try:
            fine = [tried(lab, cell, results, until, heal=options.healing) for cell in cells]
        finally:
            labs.down(options.lab, say=print)
    return 0 if all(fine) else 1


@dataclass(frozen=True)
class Trial:
    """One way to serve, on a lab."""

    lab: Lab
    cell: Cell
    results: Results
    clusterctl: Clusterctl

    def differs(self, summary: Mapping[str, Any]) -> float:
        """The largest difference to the reference, of all engines."""
        endpoint, model = summary["endpoint"], summary["model"]
        return max(
            apart(logprobs(endpoint, model, engine=rank), self.cell.reference) for rank in range(len(self.cell.engines))
        )

    def restarts(self) -> int | None:
        """How often anything was started anew; None while it does not serve."""
        with quiet():
            status = self.clusterctl("status", "--json")
        return restarts(status.json()) if status.code == 0 else None


def tried(lab: Lab, cell: Cell, results: Results, until: float, *, heal: bool) -> bool:
    """One way to serve: whatever of it is not in the results yet. Returns whether all of it was ok."""
    faults = healing(cell, lab.name) if heal else {}
    left = [fault for name, fault in faults.items() if name not in results.done(cell)]
    if "" in results.done(cell) and not left:
        return True
    if time.monotonic() > until:
        return not_begun(cell, ["start", *(fault.name for fault in left)])
    trial = Trial(lab, cell, results, cell.clusterctl(lab, Clusterctl(lab.inventory), {"serve.api_key": "off"}))
    with quiet():
        trial.clusterctl("down")
        with Listening(lab, cell.nodes) as listening:
            up = trial.clusterctl("up", "--json")
    if up.code != 0:
        return results.add(cell, "", [f"`up` ended with {up.code}: {up.err.strip()[-400:]}"], {})
    wrong, figures = served(trial, up.json(), listening)
    fine = [
        suffered(trial, fault, up.json()) if time.monotonic() < until else not_begun(cell, [fault.name])
        for fault in left
    ]
    with quiet():
        down = trial.clusterctl("down")
    if down.code:
        wrong.append(f"`down` ended with {down.code}: {down.err.strip()[-400:]}")
    wrong += [f"left: {each}" for each in left_behind(lab, lab.name)]
    return results.add(cell, "", wrong, figures) and all(fine)


def not_begun(cell: Cell, what: Sequence[str]) -> bool:
    """The time is over: say what was not tried. Not ok, and nothing that the results would hold."""
    print(f"{cell.name}: not begun, the time is over: {', '.join(what)}", flush=True)
    return False


def served(trial: Trial, summary: Mapping[str, Any], listening: Listening) -> tuple[list[str], dict[str, Any]]:
    """What is wrong with a cluster that came up, and its figures."""
    cell, wrong = trial.cell, []
    if summary["executor"] != cell.executor:
        wrong.append(f"executor {summary['executor']}, not {cell.executor}")
    if [tuple(engine["nodes"]) for engine in summary["engines"]] != list(cell.engines):
        wrong.append(f"engines {summary['engines']}")
    difference = trial.differs(summary)
    if difference > TOLERANCE:
        wrong.append(f"log-probabilities differ by {difference:.4f}")
    with quiet():
        plan, status = trial.clusterctl("plan", "--detailed-exitcode"), trial.clusterctl("status")
    if plan.code != 0:
        wrong.append(f"`plan` is not empty: {plan.out.strip()[-300:]}")
    if status.code != 0:
        wrong.append(f"`status` ended with {status.code}")
    shut, declared, others = ports(trial, listening)
    wrong += [f"{node} does not listen on {port}" for node, port in shut]
    figures = {
        "first completion s": round(summary["timings_s"]["total"], 1),
        "differs by": round(difference, 4),
        "declared ports": " / ".join(map(str, declared)),
        "other ports": " / ".join(map(str, others)),
    }
    return wrong, figures


ONLY_WHILE_STARTING = frozenset({"mp.ports.master", "mp.ports.data_parallel"})
OF_THE_NODE = frozenset({22})
LOOPBACK = ("127.", "[::1]")


def listened_on(lab: Lab, node: str) -> set[int]:
    """TCP ports of a node that others can reach and something listens on; sshd's is not one of them."""
    rows = lab.exec(node, ["ss", "-Hltn"]).splitlines()
    sockets = (row.split()[3].rsplit(":", 1) for row in rows)
    return {int(port) for address, port in sockets if not address.startswith(LOOPBACK)} - OF_THE_NODE


@dataclass
class Listening:
    """Looks at what the nodes listen on, over and over: some ports are needed while it starts only. A context
    manager."""

    lab: Lab
    nodes: Sequence[str]
    seen: dict[str, set[int]] = field(default_factory=dict)
    """Every port that was listened on at one moment or another, by node."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(LOOK_S + 10)

    def _look_on(self) -> None:
        while not self._stop.wait(LOOK_S):
            for node in self.nodes:
                self.seen.setdefault(node, set()).update(listened_on(self.lab, node))


LOOK_S = 0.5


def ports(trial: Trial, listening: Listening) -> tuple[list[tuple[str, int]], list[int], list[int]]:
    """Declared ports on which nobody listens, each with its node; how many of them are listened on, by node; and how
    many others, which the kernel chose and a firewall between the nodes must let through."""
    cell = trial.cell
    inventory = with_executor(load_inventory(trial.clusterctl.inventory), cell.executor)
    ranges = ranges_of(listens_of(inventory), inventory)
    shut: list[tuple[str, int]] = []
    open_, others = [], []
    for node in cell.nodes:
        declared, now = ports_of(inventory, node), listened_on(trial.lab, node)
        missing = {
            port
            for port, name in declared.items()
            if port not in (now | listening.seen.get(node, set()) if name in ONLY_WHILE_STARTING else now)
        }
        shut += [(node, port) for port in sorted(missing)]
        open_.append(len(declared) - len(missing))
        in_range = {port for port in now for first, last in ranges if first <= port <= last}
        others.append(len(now - set(declared) - in_range))
    return shut, open_, others


def suffered(trial: Trial, fault: Fault, summary: Mapping[str, Any]) -> bool:
    """One fault under load, until it serves steadily again."""
    plain_s = summary["timings_s"]["total"] - summary["timings_s"]["checks"]
    before = trial.restarts()
    if before is None:
        return trial.results.add(trial.cell, fault.name, ["not injected: it did not serve before"], {})
    wrong: list[str] = []
    figures: dict[str, Any] = {}
    try:
        with Load(summary["endpoint"], summary["model"]) as load:
            noticed = partial(_more_than, trial.restarts, before)
            result = suffer(trial.lab, fault, load, RECOVERY_DEADLINE_S, noticed=noticed)
        figures = {
            "recovery s": result.recovery_s,
            "beyond a plain start s": round(result.recovery_s - plain_s, 1),
            "outage s": result.outage_s,
            "requests": result.requests,
            "failed": result.failed,
            "longest s": result.longest_s,
            "timed out": result.timed_out,
        }
        if len(load.failed()) > result.failed:
            wrong.append(f"{len(load.failed()) - result.failed} requests failed before the fault or after the recovery")
        if result.longest_s > REQUEST_TIMEOUT_S + LATE_S:
            wrong.append("a request hung past its time-out")
        difference = trial.differs(summary)
        wrong += [f"log-probabilities differ by {difference:.4f}"] if difference > TOLERANCE else []
    except NotInjectedError as error:
        wrong.append(f"not injected: {error}")
    except (AssertionError, OSError, ClusterctlError) as error:
        wrong.append(f"{error}"[:300])
        with quiet():
            trial.clusterctl("up")  # the next one finds a cluster that serves
    fine = trial.results.add(trial.cell, fault.name, wrong, figures)
    time.sleep(SERVICE_S)
    return fine


def _more_than(count: Callable[[], int | None], before: int) -> bool:
    return (count() or 0) > before


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the command lines that `Clusterctl` prints for a test's report."""
    with contextlib.redirect_stdout(None):
        yield


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown: the starts, then what happened to each."""
    starts = [row for row in rows if not row.fault]
    yield from _table(starts, ("way to serve",), lambda row: (row.cell,))
    yield ""
    faults = [row for row in rows if row.fault]
    yield from _table(faults, ("way to serve", "fault"), lambda row: (row.cell, row.fault))


def _table(rows: Sequence[Row], first: Sequence[str], cells: Callable[[Row], Sequence[str]]) -> Iterator[str]:
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    header = [*first, *names, "result", "commit, date"]
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        figures = [str(row.figures.get(name, "")) for name in names]
        verdict = "; ".join(row.wrong) or "ok"
        yield "| " + " | ".join([*cells(row), *figures, verdict, f"{row.commit}, {row.date}"]) + " |"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ClusterctlError as error:
        sys.exit(f"Error: {error}")
