"""The evidence of a cluster, from all nodes at once, in one file: for somebody who was not there.

Each piece is asked for by itself, with its own deadline; one that fails is recorded with its reason and holds up no
other. Reads only: nothing is written on a node, and only the bundle on this machine; what is started there, in the
containers, ends within seconds (agent/inside/hang.py, which also asks the server for a token). Nothing leaves a node's
text for the bundle without passing through the Redactor, which knows the cluster's secrets from memory alone.
"""

from __future__ import annotations

import io
import os
import shlex
import sys
import tarfile
import threading
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from clusterctl import __version__
from clusterctl.deployment.resolve import resolve
from clusterctl.diagnosis.cause import Cause, Certainty
from clusterctl.diagnosis.evidence import Evidence
from clusterctl.errors import ClusterctlError
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.inventory.model import Inventory
from clusterctl.planning.plan import make_plan
from clusterctl.secrets.redact import Redactor

MIB = 1024 * 1024


@dataclass(frozen=True)
class Missed:
    """A piece that is not in the bundle, and why. `node` is empty for what is not a node's."""

    node: str
    what: str
    reason: str

    def __str__(self) -> str:
        return f"{self.node + ': ' if self.node else ''}{self.what}: {self.reason}"


@dataclass(frozen=True)
class Bundle:
    """What was collected, without secrets."""

    cluster: str
    path: Path | None
    """The file; None when none was asked for."""
    situation: str
    causes: tuple[Cause, ...]
    unreachable: Mapping[str, str]
    """Node → why it was not reached."""
    complete: bool
    """Whether every node was reached and listed its containers."""
    unexplained: bool
    """Whether there are containers that are neither serving nor in their first start, and no cause was found."""
    missed: tuple[Missed, ...]
    seconds: float

    @property
    def fine(self) -> bool:
        """Whether nothing wrong was found and every node answered."""
        return (
            self.complete and not self.unexplained and all(cause.certainty is Certainty.PAST for cause in self.causes)
        )

    def to_json(self) -> dict[str, Any]:
        """The result for machines."""
        return {
            **{key: value for key, value in vars(self).items() if key not in ("causes", "missed")},
            "path": str(self.path) if self.path else None,
            "causes": [cause.to_json() for cause in self.causes],
            "missed": [asdict(missed) for missed in self.missed],
        }


@dataclass
class Store:
    """The pieces so far, compressed; several threads put into it, and none once it is closed."""

    redactor: Redactor
    items: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    """Path in the bundle → compressed content, size."""
    cut: dict[str, str] = field(default_factory=dict)
    """Path → what was left out of it."""
    missed: list[Missed] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    closed: bool = False

    def put(self, path: str, data: bytes | str, cut: str | None = None) -> str:
        """Keep a piece without its secrets; returns it as text."""
        raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
        return self.keep(path, self.redactor.data(raw), cut)

    def put_json(self, path: str, value: Any) -> str:
        """Keep a tree of JSON values without its secrets."""
        return self.keep(path, self.redactor.json(value).encode("utf-8", "surrogateescape"))

    def keep(self, path: str, clean: bytes, cut: str | None = None) -> str:
        """Keep a piece that has no secrets any more."""
        with self.lock:
            if not self.closed:
                self.items[self.redactor.text(path)] = (zlib.compress(clean, 1), len(clean))
                if cut:
                    self.cut[path] = cut
        return clean.decode(errors="replace")

    def miss(self, node: str, what: str, reason: str) -> None:
        """Note what could not be collected, and why."""
        with self.lock:
            if not self.closed:
                self.missed.append(Missed(node, what, self.redactor.text(reason)))

    def close(self) -> None:
        """Accept nothing more: whatever still arrives is too late for this bundle."""
        with self.lock:
            self.closed = True


def part_of(path: Path) -> Path:
    """Where the file is until it is whole: a run that was killed leaves none that looks like evidence."""
    return path.with_name(f"{path.name}.part")


def created_file(path: Path) -> io.BufferedWriter:
    """The file to be, readable by its owner only."""
    part = part_of(path)
    try:
        file = os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except FileExistsError as error:
        hint = "use another --output, or remove the file if the run that wrote it is gone"
        raise ClusterctlError(f"{part} already exists", hint=hint) from error
    except OSError as error:
        raise ClusterctlError(
            f"cannot write {path}: {error.strerror}",
            hint="run the command in a directory that you can write to, or use --output FILE",
        ) from error
    # Now that no other run writes this one: whole already?
    if path.exists():
        file.close()
        part.unlink()
        raise ClusterctlError(f"{path} already exists", hint="use another --output: nothing is overwritten")
    return file


def redacted_cause(cause: Cause, redactor: Redactor) -> Cause:
    """The cause without the secrets that its lines may hold."""
    return Cause(
        **{
            **vars(cause),
            "seen": tuple(redactor.text(line) for line in cause.seen),
            "meaning": redactor.text(cause.meaning),
            "fix": redactor.text(cause.fix),
        }
    )


# Writing


def of_the_cluster(
    store: Store,
    inventory: Inventory,
    facts: ClusterFacts | None,
    evidence: Evidence,
    inventory_file: Path | None,
) -> None:
    """What is not one node's: inventory, facts, findings, plan, the error."""
    store.put("inventory-as-read.yaml", yaml.safe_dump(inventory.model_dump(mode="json"), sort_keys=False))
    if inventory_file is not None:
        try:
            store.put("inventory.yaml", inventory_file.read_bytes())
        except OSError as error:
            store.miss("", "inventory.yaml", str(error.strerror))
    if facts is not None:
        store.put_json("facts.json", asdict(facts))
        lines = [line for finding in evidence.findings for line in finding.lines()]
        store.put("findings.txt", "\n".join(lines or ["no finding"]) + "\n")
        store.put_json("findings.json", [finding.to_json() for finding in evidence.findings])
        _plan(store, inventory, facts)
    if evidence.error:
        store.put("error.txt", evidence.error + "\n")


def _plan(store: Store, inventory: Inventory, facts: ClusterFacts) -> None:
    """What `up` would do now, where that is known."""
    if facts.unreachable:
        store.miss("", "plan", "there is none while a node cannot be reached")
        return
    try:
        plan = make_plan(resolve(inventory, facts), facts)
        store.put("plan.txt", "\n".join(plan.lines()) + "\n")
        store.put_json("plan.json", plan.to_json())
    except ClusterctlError as error:
        store.miss("", "plan", error.message)
    except Exception as error:  # noqa: BLE001 (odd facts of a broken cluster must not cost the rest)
        store.miss("", "plan", f"it could not be made: {type(error).__name__}: {error}")


def write_bundle(
    file: io.BufferedWriter, target: Path, name: str, store: Store, *, bundle: Bundle, collected_at: datetime
) -> None:
    """Write the archive; it takes its name only when it is whole. Raises OSError."""
    manifest = {
        "clusterctl": __version__,
        "command": shlex.join(sys.argv),
        "collected_at": collected_at.isoformat(timespec="seconds"),
        **bundle.to_json(),
        "path": target.name,
        "files": {path: {"bytes": size, "cut": store.cut.get(path)} for path, (_, size) in sorted(store.items.items())},
    }
    readme = store.redactor.text(readme_text(bundle, store.items, store.cut, collected_at, shlex.join(sys.argv)))
    try:
        with file, tarfile.open(fileobj=file, mode="w:gz", compresslevel=6) as tar:
            stamp = int(collected_at.timestamp())
            _add(tar, f"{name}/README.txt", readme.encode("utf-8", "surrogateescape"), stamp)
            _add(tar, f"{name}/manifest.json", store.redactor.json(manifest).encode("utf-8", "surrogateescape"), stamp)
            for path, (content, _) in sorted(store.items.items()):
                _add(tar, f"{name}/{path}", zlib.decompress(content), stamp)
        part_of(target).rename(target)
    except OSError as error:
        raise ClusterctlError(f"cannot write {target}: {error.strerror}", hint="is the disk full?") from error


def _add(tar: tarfile.TarFile, path: str, data: bytes, stamp: int) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode, entry.mtime = len(data), 0o600, stamp
    tar.addfile(entry, io.BytesIO(data))


def readme_text(
    bundle: Bundle,
    items: Mapping[str, tuple[bytes, int]],
    cut: Mapping[str, str],
    collected_at: datetime,
    command: str,
) -> str:
    """The text at the top of the bundle."""
    sizes = {
        path: f"{size} bytes" + (f", {cut[path]}" if path in cut else "") for path, (_, size) in sorted(items.items())
    }
    lines = [
        f"Evidence of the cluster {bundle.cluster}, {collected_at:%Y-%m-%d %H:%M:%S} UTC",
        f"clusterctl {__version__}: {command}",
        "Secrets have been replaced by ***.",
        "",
        *summary(bundle),
        "",
        "Contents",
        *(f"  {path} ({size})" for path, size in sizes.items()),
    ]
    return "\n".join(lines) + "\n"


def summary(bundle: Bundle) -> Iterator[str]:
    """The result for a person: the situation, ranked causes, what could not be collected."""
    yield bundle.situation
    for name, reason in bundle.unreachable.items():
        yield f"not reached: {name}: {reason}"
    yield ""
    if bundle.causes:
        yield "Causes, the most likely first"
    elif bundle.unexplained:
        yield "No cause was found. `clusterctl status` shows the cluster's state, `clusterctl logs` its logs."
    else:
        yield "Nothing wrong was found."
    for number, cause in enumerate(bundle.causes, start=1):
        first, *rest = cause.lines()
        yield f"{number}. {first}"
        yield from (f" {line}" for line in rest)
    if bundle.missed:
        yield ""
        yield "Not collected"
        yield from (f"  {missed}" for missed in bundle.missed)
