"""What a failed `up` takes back, after it collected the evidence."""

from __future__ import annotations

from collections.abc import Mapping

from clusterctl.actions.follow import Followed, follow
from clusterctl.actions.prepare import Prepared
from clusterctl.agent.paths import container_name
from clusterctl.apply.live import put_back
from clusterctl.apply.remove import note_leftovers, remove
from clusterctl.diagnosis.collect import collect_after_failure
from clusterctl.errors import ClusterctlError
from clusterctl.facts.containers import agent_in
from clusterctl.hosts.host import Hosts
from clusterctl.lock.cluster import ClusterLock
from clusterctl.progress import Progress


def put_back_options(
    hosts: Hosts,
    prepared: Prepared,
    error: ClusterctlError,
    progress: Progress,
    lock: ClusterLock,
    *,
    by: str,
) -> None:
    """Give the server its old options again, and say in the error whether it serves with them, and where the evidence
    is of why it did not with the new."""
    saved = collect_after_failure(hosts, error, None)
    progress.phase("giving the server its old options back")
    try:
        lock.ensure()
        name = container_name(hosts.inventory.cluster)
        agent = agent_in(hosts.head, name)
        put_back(hosts, prepared.plan, prepared.keys.held, by=by)
        found = {hosts.head.name: Followed(name, agent.since or 0)}
        number = agent.server
        limits = hosts.inventory.timeouts
        follow(hosts, found, hosts.head.name, limits, progress, lost=lock.lost, after=number, patient=True)
        outcome = "the server has its old options again, and serves"
    except ClusterctlError as second:
        why = second.message.splitlines()[0]
        outcome = f"the server's old options could not be brought back: {why}; clusterctl status"
    _add_hints(error, saved, outcome)


def give_up(
    hosts: Hosts,
    prepared: Prepared,
    started: Mapping[str, str],
    error: ClusterctlError,
    lock: ClusterLock,
    *,
    keep: bool,
) -> None:
    """Collect the evidence, then remove what this run started, where nobody else has the lock by now; the error says
    so."""
    if keep:
        _add_hints(error, "what this run started is left as it is (--keep); clusterctl diagnose collects the evidence")
        return
    saved = collect_after_failure(hosts, error, None)
    lost = lock.lost()
    mine = {name: container for name, container in started.items() if name in hosts.connected and name not in lost}
    left = remove(hosts, mine)
    removed = "what this run started was removed (--keep leaves it)"
    if lost:
        removed = f"what this run started was left on {', '.join(lost)}, since its lock was lost there"
    _add_hints(error, saved if left else f"{saved}; {removed}")
    if hosts.head.name in mine and prepared.keys.generated and prepared.keys.held is not None:
        _add_hints(error, "the API's generated key went with the old container: the next `up` makes a new one")
    note_leftovers(error, left)


def _add_hints(error: ClusterctlError, *hints: str) -> None:
    error.hint = "\n     ".join([*([error.hint] if error.hint else []), *hints])
