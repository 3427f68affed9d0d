"""`verify`: one look at everything that proves that a cluster works, as a record that can be compared later."""

from __future__ import annotations

from datetime import datetime
from functools import partial

from clusterctl import __version__
from clusterctl.actions.exec import Order, run_on_one
from clusterctl.actions.observe import engine_health, observe
from clusterctl.actions.transport import seen_transport
from clusterctl.agent.paths import container_name
from clusterctl.deployment.executor import choose
from clusterctl.errors import ClusterctlError
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.gather import gather
from clusterctl.facts.image_report import ImageReport, parse_report
from clusterctl.facts.nvidia import KernelModule, NvidiaFacts
from clusterctl.facts.records import ImageFacts
from clusterctl.hosts.host import Host, Hosts
from clusterctl.inventory.model import Inventory
from clusterctl.layout.report import report
from clusterctl.modes.engines import engine_places
from clusterctl.modes.mode import EnginePlace
from clusterctl.preflight.inside import REPORT_SOURCE
from clusterctl.progress import Progress
from clusterctl.records.verification import (
    Device,
    KvRoom,
    Machine,
    Shape,
    Software,
    Verification,
    problems_of,
)
from clusterctl.signatures.start import KvCache
from clusterctl.status.asking import Asker
from clusterctl.status.server import api_client
from clusterctl.status.status import ClusterStatus, NodeStatus, status_of

REPORT_S = 60
"""For the versions of one container."""


def verify(hosts: Hosts, inventory: Inventory, progress: Progress, made_at: datetime) -> Verification:
    """Look, ask, and write down. Changes nothing; its requests stand in line with the clients'.

    Raises ClusterctlError when nothing serves, so that there is nothing to verify.
    """
    progress.phase("looking at the nodes")
    facts = gather(hosts, inventory, progress)
    status = serving(status_of(hosts, inventory, facts), "verify")
    inventory = choose(inventory, facts).inventory
    progress.phase("versions and transport")
    software = versions(hosts, inventory)
    transport = seen_transport(hosts, inventory, shape_of(status))
    progress.phase("asking the model")
    engines, outputs = [], []
    assert status.endpoint is not None  # noqa: S101 (what serves has answered there)
    with api_client(hosts, inventory, status.endpoint) as client:
        asker = Asker(client, inventory.served_name)
        for place in engine_places_seen(status, inventory):
            progress.detail(f"engine {place.rank}")
            engines.append(engine_health(asker, place, ranked=len(status.engines) > 1))
        for output in observe(asker):
            outputs.append(output)
            progress.detail(output.reason or f"{output.name}: {output.tokens} tokens")
    declared = [f"what runs differs from the inventory: {line}" for line in status.drift]
    findings = tuple(each.lines()[0] for each in status.findings if not each.waived)
    return Verification(
        made_at=f"{made_at:%Y-%m-%dT%H:%M:%SZ}",
        clusterctl=__version__,
        cluster=status.cluster,
        model=status.model,
        model_path=inventory.model.path,
        endpoint=status.endpoint,
        state=status.state,
        drift=status.drift,
        findings=findings,
        image=inventory.container.image,
        nodes={node.name: _machine(node, facts.nodes.get(node.name), software.get(node.name)) for node in status.nodes},
        shape=shape_of(status),
        kv_cache=_kv_room(inventory, facts, status.kv_cache),
        transport=transport,
        engines=tuple(engines),
        outputs=tuple(outputs),
        problems=problems_of(status.state, (*declared, *findings), tuple(engines), tuple(outputs)),
    )


def serving(status: ClusterStatus, command: str) -> ClusterStatus:
    """The status, if there is a server that can be asked. Raises ClusterctlError."""
    if status.server is None or status.endpoint is None or status.state == "down":
        raise ClusterctlError(
            f"{status.cluster} is {status.state}: nothing serves that `{command}` could ask",
            hint="clusterctl up starts it; clusterctl status says what is there",
        )
    return status


def shape_of(status: ClusterStatus) -> Shape:
    """How the model lies on the nodes."""
    return Shape(
        executor=status.executor,
        tensor_parallel=status.tensor_parallel,
        pipeline_parallel=status.pipeline_parallel,
        data_parallel=status.data_parallel,
        expert_parallel=status.expert_parallel,
    )


def engine_places_seen(status: ClusterStatus, inventory: Inventory) -> tuple[EnginePlace, ...]:
    """The engines, on the nodes where status sees them; as they are planned where it sees none."""
    seen = tuple(EnginePlace(each.rank, each.nodes) for each in status.engines)
    return seen or engine_places(inventory)


def versions(hosts: Hosts, inventory: Inventory) -> dict[str, Software | Unknown]:
    """What is in each node's container, asked in it while it serves: one short process a node."""
    found = hosts.each(partial(_report, cluster=inventory.cluster, model_path=inventory.model.path))
    said: dict[str, Software | Unknown] = {name: Unknown(error.message) for name, error in found.errors.items()}
    for name, answer in found.values.items():
        said[name] = answer if isinstance(answer, Unknown) else _software(answer)
    return said


def _report(host: Host, *, cluster: str, model_path: str) -> ImageReport | Unknown:
    """The image's report, from the very container that serves. Creates no CUDA context."""
    out: list[bytes] = []
    argv = ["python3", "-", str(REPORT_S), model_path]
    source = iter([REPORT_SOURCE.read_bytes()])
    order = Order(cluster, argv, on_host=False, timeout_s=REPORT_S + 5)
    code = run_on_one(host, order, lambda piece: out.append(piece[1]) if piece[0] == "stdout" else None, source)
    found = parse_report(b"".join(out).decode(errors="replace"))
    if code != 0 and isinstance(found, Unknown):
        return Unknown(f"python3 in {container_name(cluster)} ended with exit code {code}: {found.reason}")
    return found


def _software(said: ImageReport) -> Software:
    return Software(
        vllm=said.vllm,
        ray=said.ray,
        torch=said.torch,
        transformers=said.transformers,
        nccl=said.nccl,
        cuda=said.cuda,
        driver_cuda=said.driver_cuda,
        python=said.python,
        digest=said.digest,
    )


def _machine(node: NodeStatus, facts: NodeFacts | None, software: Software | Unknown | None) -> Machine:
    nvidia = facts.nvidia if facts is not None else None
    module = nvidia.module if isinstance(nvidia, NvidiaFacts) else None
    kernel = facts.kernel if facts is not None else None
    image = facts.image if facts is not None else None
    reason = software.reason if isinstance(software, Unknown) else None if software else "the node was not reached"
    return Machine(
        role=node.role,
        image=image.id if isinstance(image, ImageFacts) else None,
        driver=module.version if isinstance(module, KernelModule) else None,
        kernel=kernel if isinstance(kernel, str) else None,
        software=software if isinstance(software, Software) else None,
        software_reason=reason,
        gpus=tuple(Device(g.index, g.name, g.memory_used_mib, g.memory_total_mib) for g in node.gpu_memory),
        stages=node.stages,
        restarts=sum(each.restarts_total for each in node.containers),
    )


def _kv_room(inventory: Inventory, facts: ClusterFacts, logged: KvCache) -> KvRoom:
    found = report(inventory, facts)
    predicted = found.chosen.kv_tokens if not isinstance(found, Unknown) else None
    if isinstance(found, Unknown):
        reason: str | None = found.reason
    else:
        reason = None if predicted is not None else "; ".join(found.unknown) or "the estimate does not cover this model"
    return KvRoom(predicted, reason, logged.tokens, logged.max_concurrency, logged.tokens_per_request)
