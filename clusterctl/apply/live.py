"""Changes to a cluster that goes on running: new files, and a new server where they need one."""

from __future__ import annotations

import json
from collections.abc import Mapping

from clusterctl.agent.paths import SPEC_PATH
from clusterctl.apply.files import key_file, spec_record
from clusterctl.apply.requests import ask_agent
from clusterctl.apply.undo import NewFiles
from clusterctl.errors import ClusterctlError
from clusterctl.facts.api_key import ApiKeys
from clusterctl.hosts.engine.engine import FileInContainer
from clusterctl.hosts.host import Host
from clusterctl.lock.run import Run
from clusterctl.planning.container import LIVE_FILES
from clusterctl.planning.plan import Plan
from clusterctl.planning.steps import NEW_FILES, RestartServer, Step


def update(run: Run, plan: Plan, keys: ApiKeys) -> list[NewFiles]:
    """Replace files in containers that go on; ask the head's agent for a new server where that takes one.

    What a server is started with is recorded once it has been asked to start: cut off before, the next `up` asks again,
    instead of taking a server with the old options for one with the new. Raises NodesError; what was replaced by then
    is put back.
    """
    todo = {step.node: step for step in plan.steps if isinstance(step, NEW_FILES)}
    restarts = {name: step for name, step in todo.items() if isinstance(step, RestartServer)}

    def replace(host: Host) -> None:
        step = todo[host.name]
        files = [FileInContainer(path, text.encode()) for path, text in step.spec.live_files.items()]
        last = key_file(keys.wanted) if host.name in restarts else spec_record(step.spec)
        host.engine.put_files(step.existing[0].id, [*files, last])

    try:
        run.hosts.each(replace, todo).or_raise("replacing files")
        _restart_servers(run, restarts)
    except ClusterctlError as error:
        undone = run.hosts.each(lambda host: _put_back_files(host, todo[host.name], keys.held), _recorded(todo))
        if undone.errors:
            note = f"what is on {', '.join(undone.errors)} may be new already; clusterctl up"
            error.hint = f"{error.hint}; {note}" if error.hint else note
        raise

    def record(host: Host) -> None:
        step = restarts[host.name]
        host.engine.put_files(step.existing[0].id, [spec_record(step.spec)])

    run.hosts.each(record, restarts).or_raise("recording what the server was started with")
    return [NewFiles(step) for step in todo.values()]


def put_back(run: Run, replaced: list[NewFiles], key: bytes | None) -> None:
    """Undo `update`: the files as they were, the API's key too, and a new server that reads them. Raises NodesError."""
    steps = {each.step.node: each.step for each in replaced}
    known = _recorded(steps)
    run.hosts.each(lambda host: _put_back_files(host, known[host.name], key), known).or_raise("putting the files back")
    _restart_servers(run, {name: step for name, step in steps.items() if isinstance(step, RestartServer)})


def _restart_servers(run: Run, steps: Mapping[str, Step]) -> None:
    """Ask the agents on these nodes for a new server."""
    done = run.hosts.each(lambda host: ask_agent(host, steps[host.name].existing[0].id, "restart", by=run.by), steps)
    done.or_raise("restarting the server")


def _recorded(steps: Mapping[str, Step]) -> Mapping[str, Step]:
    """The steps of which it is known what their files were."""
    return {name: step for name, step in steps.items() if isinstance(step.existing[0].spec, Mapping)}


def _put_back_files(host: Host, step: Step, key: bytes | None) -> None:
    spec = step.existing[0].spec
    contents = spec.get("file_contents") or {} if isinstance(spec, Mapping) else {}
    files = [FileInContainer(path, str(contents[path]).encode()) for path in LIVE_FILES if path in contents]
    record = FileInContainer(SPEC_PATH, json.dumps(spec, sort_keys=True).encode())
    keyed = [key_file(key)] if isinstance(step, RestartServer) else []
    host.engine.put_files(step.existing[0].id, [*files, *keyed, record])
