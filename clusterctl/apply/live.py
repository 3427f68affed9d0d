"""Changes to a cluster that goes on running: new files, and a new server where they need one."""

from __future__ import annotations

import json
from collections.abc import Mapping

from clusterctl.agent.paths import SPEC_PATH
from clusterctl.apply.files import key_file, spec_record
from clusterctl.apply.requests import ask_agent
from clusterctl.errors import ClusterctlError
from clusterctl.facts.api_key import ApiKeys
from clusterctl.hosts.engine import FileInContainer
from clusterctl.hosts.host import Host, Hosts
from clusterctl.planning.container import LIVE_FILES
from clusterctl.planning.plan import NodePlan, Plan


def update(hosts: Hosts, plan: Plan, *, keys: ApiKeys, by: str) -> None:
    """Replace files in containers that go on; ask the head's agent for a new server where that takes one.

    What a server is started with is recorded once it has been asked to start: cut off before, the next `up` asks again,
    instead of taking a server with the old options for one with the new. Raises NodesError; what was replaced by then
    is put back.
    """
    todo = {node.node: node for node in plan.nodes if node.action in ("update", "restart-server")}
    restarts = {name: node.existing[0].id for name, node in todo.items() if node.action == "restart-server"}

    def replace(host: Host) -> None:
        node = todo[host.name]
        files = [FileInContainer(path, text.encode()) for path, text in node.spec.live_files.items()]
        last = key_file(keys.wanted) if host.name in restarts else spec_record(node.spec)
        host.engine.put_files(node.existing[0].id, [*files, last])

    try:
        hosts.each(replace, todo).or_raise("replacing files")
        restart_servers(hosts, restarts, by=by)
    except ClusterctlError as error:
        undone = hosts.each(lambda host: _put_back_files(host, todo[host.name], keys.held), _recorded(plan))
        if undone.errors:
            note = f"what is on {', '.join(undone.errors)} may be new already; clusterctl up"
            error.hint = f"{error.hint}; {note}" if error.hint else note
        raise

    def record(host: Host) -> None:
        host.engine.put_files(restarts[host.name], [spec_record(todo[host.name].spec)])

    hosts.each(record, restarts).or_raise("recording what the server was started with")


def restart_servers(hosts: Hosts, containers: Mapping[str, str], *, by: str) -> None:
    """Ask the agents in these containers (node name → ID) for a new server. Raises NodesError."""
    done = hosts.each(lambda host: ask_agent(host, containers[host.name], "restart", by=by), containers)
    done.or_raise("restarting the server")


def put_back(hosts: Hosts, plan: Plan, key: bytes | None, *, by: str) -> None:
    """Undo `update`: the files as they were, the API's key too, and a new server that reads them. Raises NodesError."""
    todo = _recorded(plan)
    restarts = {node.node: node.existing[0].id for node in plan.nodes if node.action == "restart-server"}
    hosts.each(lambda host: _put_back_files(host, todo[host.name], key), todo).or_raise("putting the files back")
    restart_servers(hosts, restarts, by=by)


def _recorded(plan: Plan) -> Mapping[str, NodePlan]:
    """The nodes whose files `update` replaces, as far as it is known what these were."""
    return {
        node.node: node
        for node in plan.nodes
        if node.action in ("update", "restart-server") and isinstance(node.existing[0].spec, Mapping)
    }


def _put_back_files(host: Host, node: NodePlan, key: bytes | None) -> None:
    spec = node.existing[0].spec
    contents = spec.get("file_contents") or {} if isinstance(spec, Mapping) else {}
    files = [FileInContainer(path, str(contents[path]).encode()) for path in LIVE_FILES if path in contents]
    record = FileInContainer(SPEC_PATH, json.dumps(spec, sort_keys=True).encode())
    keyed = [key_file(key)] if node.action == "restart-server" else []
    host.engine.put_files(node.existing[0].id, [*files, *keyed, record])
