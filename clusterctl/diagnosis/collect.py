"""Evidence from every node at once, within limits of size and time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clusterctl.agent.labels import LABEL_ROLE, ROLE_PROBE
from clusterctl.diagnosis.bundle import (
    Bundle,
    Store,
    created_file,
    of_the_cluster,
    part_of,
    redacted_cause,
    write_bundle,
)
from clusterctl.diagnosis.causes import diagnose
from clusterctl.diagnosis.evidence import Evidence, situation
from clusterctl.diagnosis.node import AFTER_FAILURE, THOROUGH, Job, Limits, NodeCollection
from clusterctl.diagnosis.pieces import SECRET_FILES, evidence_of, node_jobs
from clusterctl.errors import ClusterctlError
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.gather import gather
from clusterctl.findings.finding import Finding
from clusterctl.findings.rules import check
from clusterctl.hosts.host import TURN_S, Hosts
from clusterctl.inventory.model import Inventory
from clusterctl.progress import SILENT, Progress
from clusterctl.secrets.redact import Redactor, secret_values

SESSIONS = 4
"""Pieces asked of one node at once. sshd carries ten sessions on a connection (MaxSessions), and the engine's calls
are sessions too."""


ALIVE_S = 5.0
"""A node whose shell does not run `true` in so many seconds is asked for nothing else."""


@dataclass(frozen=True)
class Wanted:
    """What a collection of evidence is for, and where it goes."""

    folder: Path
    """Where the bundle goes, named after the cluster and the time, unless `output` names a file."""
    output: Path | None = None
    write: bool = True
    """Whether there is a bundle at all."""
    facts: ClusterFacts | None = None
    """What is known already; None: the nodes are read again."""
    error: str | None = None
    """What a command failed with."""
    inventory_file: Path | None = None
    limits: Limits = THOROUGH


def collect(hosts: Hosts, inventory: Inventory, wanted: Wanted, progress: Progress = SILENT) -> Bundle:
    """Ask every node that was reached for everything, and put it into one file that only its owner may read.

    Raises ClusterctlError when the file cannot be written (before any node is asked, where that can be known); nothing
    of it stays then.
    """
    began = time.monotonic()
    now = datetime.now(UTC)
    name = f"clusterctl-{inventory.cluster}-{now:%Y%m%dT%H%M%SZ}"
    target = (wanted.output or wanted.folder / f"{name}.tar.gz") if wanted.write else None
    file = created_file(target) if target else None
    try:
        with_facts, evidence, store = _collected(
            hosts, inventory, wanted, progress, deadline=began + wanted.limits.total_s
        )
        causes = tuple(redacted_cause(cause, store.redactor) for cause in diagnose(evidence))
        unreachable = {n: store.redactor.text(reason) for n, (reason, _) in evidence.unreachable.items()}
        of_the_cluster(store, inventory, with_facts, evidence, wanted.inventory_file)
        store.close()
        bundle = Bundle(
            inventory.cluster,
            target,
            situation(evidence),
            causes,
            unreachable,
            with_facts is not None and not unreachable and None not in [n.containers for n in evidence.nodes.values()],
            evidence.containers and not (evidence.serving or evidence.starting or causes),
            tuple(store.missed),
            round(time.monotonic() - began, 2),
        )
        if file is not None and target is not None:
            write_bundle(file, target, name, store, bundle=bundle, collected_at=now)
    except BaseException:
        if file is not None and target is not None:
            file.close()
            part_of(target).unlink(missing_ok=True)
        raise
    return bundle


def collect_after_failure(
    hosts: Hosts, inventory: Inventory, error: ClusterctlError | str, facts: ClusterFacts | None
) -> str:
    """The same for a command that failed, before it cleans up: a sentence with the bundle's path, or why there
    is none. Raises nothing, and takes 30 s at most, also when a node hangs."""
    text = error.message if isinstance(error, ClusterctlError) else error
    try:
        bundle = collect(hosts, inventory, Wanted(Path.cwd(), facts=facts, error=text, limits=AFTER_FAILURE))
    except ClusterctlError as problem:
        return f"no evidence could be collected: {problem.message}"
    except Exception as problem:  # noqa: BLE001 (the failure itself is reported, whatever happens to its evidence)
        return f"no evidence could be collected: {type(problem).__name__}: {problem}"
    lost = f" (without {', '.join(bundle.unreachable)}: not reached)" if bundle.unreachable else ""
    return f"evidence from the nodes, with ranked causes: {bundle.path}{lost}"


# Collecting: first what must be known before anything may be kept (containers, secrets), then everything else.


def _collected(
    hosts: Hosts, inventory: Inventory, wanted: Wanted, progress: Progress, *, deadline: float
) -> tuple[ClusterFacts | None, Evidence, Store]:
    facts, limits = wanted.facts, wanted.limits
    nodes = {name: NodeCollection(host) for name, host in hosts.connected.items()}
    unreachable = {name: (e.message, e.hint) for name, e in hosts.unreachable.items()}
    pool = ThreadPoolExecutor(max_workers=len(nodes) + 1, thread_name_prefix="evidence")
    store = Store(Redactor(()))
    try:
        progress.phase("listing containers")
        reading = pool.submit(gather, hosts, inventory) if facts is None else None
        opened = {name: pool.submit(_look, node, inventory.cluster) for name, node in nodes.items()}
        _wait(opened.values(), min(deadline, time.monotonic() + limits.item_s))
        secrets = [*own_secrets(inventory), *(s for node in nodes.values() for s in list(node.secrets))]
        store = Store(Redactor(secrets))
        asked = {}
        for name, future in opened.items():
            problem = _problem(future, limits.item_s)
            if not nodes[name].answers:
                unreachable[name] = (problem or "its SSH stopped responding", None)
                continue
            if problem:
                store.miss(name, "containers", problem)
            asked[name] = [*node_jobs(nodes[name], inventory, store, limits)]
        progress.phase("collecting from every node")
        _run(asked, store, limits, deadline)
        if reading is not None:
            _wait([reading], deadline)
            problem = _problem(reading, limits.total_s)
            facts = None if problem else reading.result()
            if problem:
                store.miss("", "facts", problem)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    findings: tuple[Finding, ...] = ()
    if facts is not None:
        unreachable |= {n: (lost.reason, lost.fix) for n, lost in facts.unreachable.items() if n not in unreachable}
        try:
            findings = check(inventory, facts)
        except Exception as broken:  # noqa: BLE001 (a rule that breaks on odd facts must not cost the evidence)
            store.miss("", "findings", f"{type(broken).__name__}: {broken}")
    evidence = Evidence(
        head=inventory.head_name,
        nodes={name: evidence_of(node) for name, node in nodes.items() if name not in unreachable},
        unreachable=unreachable,
        findings=findings,
        error=wanted.error,
    )
    return facts, evidence, store


def _wait(futures: Iterable[Future[Any]], deadline: float) -> None:
    """Until all are done or the deadline (monotonic seconds), in short turns so that Ctrl-C is noticed between them."""
    left = set(futures)
    while left and (remaining := deadline - time.monotonic()) > 0:
        left = wait(left, timeout=min(TURN_S, remaining)).not_done


def _problem(future: Future[Any], waited_s: float) -> str | None:
    """Why a piece is not there, if it is not."""
    if not future.done():
        future.cancel()
        return f"no answer within {waited_s:g} s"
    if future.cancelled():
        return "no time was left for it"
    error = future.exception()
    if error is None:
        return None
    return error.message if isinstance(error, ClusterctlError) else f"{type(error).__name__}: {error}"


def own_secrets(inventory: Inventory) -> Iterator[str]:
    """Secrets that this machine knows: values in the inventory, and what its secrets' files hold."""
    settings = inventory.model_dump(mode="json")
    # Names with "key" that hold no secret: ssh.key and nodes[].key are paths, serve.api_key is a policy.
    settings["nodes"] = [{name: value for name, value in node.items() if name != "key"} for node in settings["nodes"]]
    settings["serve"].pop("api_key")
    yield from secret_values({key: value for key, value in settings.items() if key != "ssh"})
    for section in settings.values():
        for key, value in section.items() if isinstance(section, Mapping) else ():
            if isinstance(value, str) and key.endswith(("token_file", "api_key_file")):
                try:
                    yield from Path(value).read_text(encoding="utf-8").split()
                except (OSError, ValueError):
                    continue  # the containers hold the same


def _look(node: NodeCollection, cluster: str) -> None:
    """The node's containers, and the secrets that their texts must be cleared of."""
    node.host.connection.run(["true"], timeout_s=ALIVE_S, read_only=True)
    node.answers = True
    containers = tuple(
        container
        for container in node.host.engine.containers(cluster)
        if container.labels.get(LABEL_ROLE) != ROLE_PROBE
    )
    for container in containers:
        node.secrets += secret_values(container.raw)
        try:
            for path in SECRET_FILES:
                content = node.host.engine.read_file(container.id, path)
                node.secrets += (content or b"").decode(errors="replace").split()
        except ClusterctlError:
            node.sealed.add(container.id)
    node.containers = containers


def _run(asked: Mapping[str, Sequence[Job]], store: Store, limits: Limits, deadline: float) -> None:
    """All nodes' jobs, a few of each node at once; what is not done at the deadline is recorded as missing."""
    pools = {name: ThreadPoolExecutor(SESSIONS, thread_name_prefix=f"evidence-{name}") for name in asked}
    try:
        futures = [(n, what, pools[n].submit(work)) for n, jobs in asked.items() for what, work in jobs]
        _wait([future for _, _, future in futures], deadline)
        for name, what, future in futures:
            if problem := _problem(future, limits.total_s):
                store.miss(name, what, problem)
    finally:
        for pool in pools.values():
            # Not waited for: a hung node must not hold up the others' evidence.
            pool.shutdown(wait=False, cancel_futures=True)
