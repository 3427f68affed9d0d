"""`report`: everything that is known of a cluster, to send to somebody. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from clusterctl.agent.paths import container_name
from clusterctl.deployment.executor import choose
from clusterctl.diagnosis.collect import own_secrets
from clusterctl.errors import ClusterctlError, UsageError
from clusterctl.facts.api_key import held_api_key
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.gather import gather
from clusterctl.findings.finding import Finding
from clusterctl.findings.rules import check
from clusterctl.hosts.host import Hosts
from clusterctl.inventory.model import Inventory
from clusterctl.layout.report import Report as LayoutReport
from clusterctl.layout.report import report as layout_report
from clusterctl.lock.history import History, read_history
from clusterctl.progress import Progress
from clusterctl.records.benchmark import Benchmark
from clusterctl.records.files import read_record
from clusterctl.records.verification import Verification
from clusterctl.secrets.redact import Redactor
from clusterctl.status.status import ClusterStatus, containers_of, status_of

HISTORY = 50
"""Entries of the history that are shown, the latest."""

Record = TypeVar("Record", Verification, Benchmark)


@dataclass(frozen=True)
class Records:
    """What earlier commands have written down."""

    verification: Verification | None = None
    benchmark: Benchmark | None = None
    notes: tuple[str, ...] = ()
    """Records that lie there and are not shown, with the reason."""


@dataclass(frozen=True)
class Collected:
    """Everything that a report shows."""

    made_at: datetime
    inventory: Inventory
    status: ClusterStatus
    findings: tuple[Finding, ...]
    layout: LayoutReport | Unknown
    history: History
    starts: Mapping[str, Mapping[str, float]]
    """Node -> phase -> seconds, of the last start that came to serve."""
    records: Records
    redactor: Redactor

    @property
    def blind(self) -> bool:
        """Whether no node could be reached."""
        return not any(node.reachable for node in self.status.nodes)


def collect(hosts: Hosts, inventory: Inventory, records: Records, progress: Progress, made_at: datetime) -> Collected:
    """Look at the nodes and the server, and read what they have written down."""
    progress.phase("reading the nodes")
    facts = gather(hosts, inventory, progress)
    progress.phase("asking the server")
    status = status_of(hosts, inventory, facts)
    progress.phase("reading the history")
    names = [node.name for node in inventory.nodes]
    history = read_history(hosts, inventory.cluster, names, limit=HISTORY)
    chosen = choose(inventory, facts).inventory
    return Collected(
        made_at=made_at,
        inventory=inventory,
        status=status,
        findings=tuple(check(chosen, facts)),
        layout=layout_report(chosen, facts),
        history=history,
        starts=starts_of(facts),
        records=records,
        redactor=Redactor([*own_secrets(inventory), *_held(hosts, inventory)]),
    )


def starts_of(facts: ClusterFacts) -> Mapping[str, Mapping[str, float]]:
    """What each node's agent has measured of its last start; nodes without any are left out."""
    phases = {
        name: each.agent.start_phases
        for name, node in facts.nodes.items()
        for each in containers_of(node)
        if each.agent.start_phases
    }
    return {name: phases[name] for name in facts.nodes if name in phases}


def _held(hosts: Hosts, inventory: Inventory) -> tuple[str, ...]:
    """The API's key, so that it can be taken out of whatever text holds it."""
    if inventory.head_name not in hosts.connected:
        return ()
    try:
        key = held_api_key(hosts.head, container_name(inventory.cluster))
    except (ClusterctlError, ValueError):
        return ()
    return (key.decode(errors="replace"),) if key else ()


def find_records(cluster: str, directory: Path, verify: Path | None, bench: Path | None) -> Records:
    """The records that are given; else the latest of this cluster in the directory.

    Raises UsageError for a given one that cannot be read or is another cluster's; one that was only found is noted.
    """
    notes: list[str] = []
    verification = _record(cluster, directory, ("verify", verify, Verification), notes)
    benchmark = _record(cluster, directory, ("bench", bench, Benchmark), notes)
    return Records(verification, benchmark, tuple(notes))


def _record(
    cluster: str, directory: Path, wanted: tuple[str, Path | None, type[Record]], notes: list[str]
) -> Record | None:
    kind, given, form = wanted
    if given is not None:
        return _of_cluster(cluster, given, kind, form)
    found = sorted(directory.glob(f"{cluster}-{kind}-*.json"))
    if not found:
        return None
    try:
        return _of_cluster(cluster, found[-1], kind, form)
    except UsageError as error:
        notes.append(f"a record of `{kind}` is not shown: {error.message}")
        return None


def _of_cluster(cluster: str, path: Path, kind: str, form: type[Record]) -> Record:
    record = read_record(path, kind, form)
    if record.cluster != cluster:
        raise UsageError(
            f"{path} is a record of cluster {record.cluster}, not of {cluster}",
            hint=f"give a record that `clusterctl {kind}` has written of {cluster}",
        )
    return record
