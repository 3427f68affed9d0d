"""What a failed `up` takes back, after it collected the evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from clusterctl.actions.completion import LateCompletionError
from clusterctl.actions.follow import Followed, follow
from clusterctl.actions.prepare import Prepared
from clusterctl.agent.paths import container_name
from clusterctl.apply.live import put_back
from clusterctl.apply.remove import note_leftovers, remove
from clusterctl.apply.undo import NewFiles, Undo, created
from clusterctl.diagnosis.collect import collect_after_failure
from clusterctl.errors import ClusterctlError
from clusterctl.facts.containers import agent_in
from clusterctl.lock.run import Run
from clusterctl.planning.steps import RestartServer


@contextmanager
def undone_on_failure(run: Run, prepared: Prepared, *, keep: bool) -> Iterator[list[Undo]]:
    """Take back what the block has put into the list when it fails: new containers are removed (with `keep` they are
    left), and a server that was given other options gets its old ones. The error says what became of it.

    A completion that is late undoes nothing: the cluster serves.
    """
    undo: list[Undo] = []
    try:
        yield undo
    except LateCompletionError:
        raise
    except ClusterctlError as error:
        files = [each for each in undo if isinstance(each, NewFiles)]
        if started := created(undo):
            _remove_created(run, prepared, started, error, keep=keep)
        elif any(isinstance(each.step, RestartServer) for each in files):
            _put_options_back(run, prepared, files, error)
        raise


def _put_options_back(run: Run, prepared: Prepared, files: list[NewFiles], error: ClusterctlError) -> None:
    """Give the server its old options again, and say in the error whether it serves with them, and where the evidence
    is of why it did not with the new."""
    saved = collect_after_failure(run.hosts, run.inventory, error, None)
    run.progress.phase("giving the server its old options back")
    try:
        run.lock.ensure()
        head, name = run.hosts.head, container_name(run.inventory.cluster)
        agent = agent_in(head, name)
        put_back(run, files, prepared.keys.held)
        follow(run, {head.name: Followed(name, agent.since or 0)}, after=agent.server, patient=True)
        outcome = "the server has its old options again, and serves"
    except ClusterctlError as second:
        why = second.message.splitlines()[0]
        outcome = f"the server's old options could not be brought back: {why}; clusterctl status"
    _add_hints(error, saved, outcome)


def _remove_created(
    run: Run, prepared: Prepared, started: Mapping[str, str], error: ClusterctlError, *, keep: bool
) -> None:
    """Collect the evidence, then remove what this run started, where nobody else has the lock by now; the error says
    so."""
    if keep:
        _add_hints(error, "what this run started is left as it is (--keep); clusterctl diagnose collects the evidence")
        return
    saved = collect_after_failure(run.hosts, run.inventory, error, None)
    lost = run.lock.lost()
    mine = {name: container for name, container in started.items() if name in run.hosts.connected and name not in lost}
    left = remove(run, mine)
    removed = "what this run started was removed (--keep leaves it)"
    if lost:
        removed = f"what this run started was left on {', '.join(lost)}, since its lock was lost there"
    _add_hints(error, saved if left else f"{saved}; {removed}")
    if run.hosts.head.name in mine and prepared.keys.generated and prepared.keys.held is not None:
        _add_hints(error, "the API's generated key went with the old container: the next `up` makes a new one")
    note_leftovers(error, left)


def _add_hints(error: ClusterctlError, *hints: str) -> None:
    error.hint = "\n     ".join([*([error.hint] if error.hint else []), *hints])
