"""Results as text for a person, on stdout."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from rich.table import Table

from clusterctl.actions.down import DownResult
from clusterctl.actions.summary import UpSummary
from clusterctl.deployment.rdma import Ports
from clusterctl.facts.cluster import DeepFacts
from clusterctl.facts.fact import Unknown
from clusterctl.findings.finding import Finding
from clusterctl.findings.identity import Difference
from clusterctl.findings.topics.machine import size
from clusterctl.modes.engines import EngineStatus
from clusterctl.signatures.start import KvCache
from clusterctl.status.status import ClusterStatus, GpuStatus, NodeStatus, ServerAnswers
from clusterctl.ui.network import NO_PORTS, Environments, bandwidth_table, network_lines
from clusterctl.ui.tables import needed_columns, terminal_columns, text_of

SHOWN_RESTARTS = 5
NODE_COLUMNS = (
    *("NODE", "ROLE", "ADDRESS", "REACHABLE", "CONTAINER", "AGENT", "RAY", "GPUS", "GPU MEMORY", "STAGE", "RESTARTS"),
)


def up_summary(summary: UpSummary, key_command: str | None) -> str:
    """What a successful `up` ends with: the endpoint, the layout on the nodes, the KV cache, how to use it.

    `key_command` prints the API key; None when there is none.
    """
    rows = [
        ("endpoint", f"{summary.endpoint}/v1"),
        ("model", summary.model),
        ("executor", summary.executor),
        ("layout", _sizes(summary)),
        *_engine_rows(summary.engines),
        *((f"stage {stage.pipeline_rank}", ", ".join(stage.nodes)) for stage in summary.stages),
        ("KV cache", kv_cache(summary.kv_cache)),
        ("completion", f"{summary.completion.tokens} token in {summary.completion.latency_s:.2f} s"),
        *((("API key", f"a new one was generated; print it with: {key_command}"),) if summary.new_api_key else ()),
        ("time", took(summary.timings_s, summary.last_starts_s)),
    ]
    headline = f"{summary.cluster} is up" + ("" if summary.changed else " (nothing was changed)")
    warnings = [line for finding in summary.warnings for line in finding.lines()]
    return "\n".join(
        [headline, *_columns(rows), *warnings, "", "try it:", f"  {curl(summary.endpoint, summary.model, key_command)}"]
    )


def took(timings_s: Mapping[str, float], last_starts_s: Sequence[float] = ()) -> str:
    """How long each phase took, and the starts before this one, the latest last."""
    phases = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in timings_s.items())
    if not last_starts_s:
        return phases
    which = "the start" if len(last_starts_s) == 1 else f"the {len(last_starts_s)} starts"
    return f"{phases} ({which} before: {', '.join(f'{seconds:.1f}' for seconds in last_starts_s)} s)"


def curl(endpoint: str, model: str, key_command: str | None) -> str:
    """A command line that asks the served model; the key is not in it, but the command that prints the key."""
    body = json.dumps({"model": model, "prompt": "Hello", "max_tokens": 16})
    key = f'-H "Authorization: Bearer $({key_command})" ' if key_command is not None else ""
    return f"curl -s {endpoint}/v1/completions {key}-H 'Content-Type: application/json' -d '{body}'"


def kv_cache(found: KvCache) -> str:
    """KV cache and concurrency as vLLM logged them."""
    if found.tokens is None:
        return "not logged by this vLLM"
    text = f"{found.tokens:,} tokens"
    if found.max_concurrency is not None:
        text += f", {found.max_concurrency:.2f} requests of {found.tokens_per_request:,} tokens at once"
    return text


def down_result(result: DownResult) -> str:
    """What `down` removed."""
    removed = {node: names for node, names in result.removed.items() if names}
    caches = list(_caches(result))
    if not removed:
        return "\n".join([f"{result.cluster} is down (nothing was running)", *caches])
    lines = [f"  {node}: removed {', '.join(names)}" for node, names in removed.items()]
    gone = f"{result.cluster} is down: containers gone, ports closed, accelerators free ({result.seconds:.1f} s)"
    return "\n".join([gone, *lines, *caches])


def _caches(result: DownResult) -> Iterator[str]:
    """What `down` says of compiled code."""
    for volumes, text in (
        (result.kept, "kept for the next start: compiled code, volume {} on {} (down --purge removes it)"),
        (result.purged, "removed: compiled code, volume {} on {}"),
    ):
        if volumes:
            yield text.format(next(iter(volumes.values())), ", ".join(volumes))


def findings(found: Sequence[Finding], nodes: int) -> str:
    """What `check` found."""
    if not found:
        return f"{nodes} nodes checked: no problems found"
    lines = [line for finding in found for line in finding.lines()]
    waived = sum(finding.waived for finding in found)
    counted = f"{len(found)} finding{'s' if len(found) != 1 else ''}" + (f", {waived} of them waived" if waived else "")
    return "\n".join([*lines, f"{nodes} nodes checked: {counted}"])


def check_result(
    found: Sequence[Finding], differing: Sequence[Difference], nodes: int, network: Sequence[str] = ()
) -> str:
    """What `check` found, the network between the nodes, and what differs between them."""
    table = ["differences between the nodes:", identity(differing), ""] if differing else []
    between = [*network, ""] if network else []
    return "\n".join([*between, *table, findings(found, nodes)])


def network(environments: Environments, deep: DeepFacts | None, ports: Mapping[str, Ports] = NO_PORTS) -> list[str]:
    """The network environment of each node, its RDMA ports, and what was measured between them."""
    lines = list(network_lines(environments, deep, ports))
    if deep is not None and deep.pairs is not None and deep.pairs.gbit_per_s:
        lines.append(text_of(bandwidth_table(deep.pairs)))
    return lines


def identity(differing: Sequence[Difference]) -> str:
    """The table of what differs, a column for each node."""
    table = Table(box=None, pad_edge=False, header_style="")
    for column in ("", *differing[0].cells, "RATED", "WHY"):
        table.add_column(column, overflow="fold")
    for row in differing:
        rated = f"waived ({row.rating})" if row.waived else str(row.rating)
        table.add_row(row.title, *row.cells.values(), rated, row.reason)
    return text_of(table)


def status(found: ClusterStatus) -> str:
    """The status as a table of nodes, the server's own answers, and what differs from the inventory."""
    rows = [
        ("cluster", f"{found.cluster}: {found.state}"),
        *((("waiting for", found.waiting_for),) if found.waiting_for and found.state != "healthy" else ()),
        ("endpoint", f"{found.endpoint}/v1" if found.endpoint else "unknown"),
        ("model", found.model),
        ("executor", found.executor or "not decided: nothing runs"),
        ("layout", "unknown" if found.tensor_parallel is None else _sizes(found)),
        *_balancing_row(found),
        *_engine_rows(found.engines),
        *(_server_rows(found.server) if found.server is not None else ()),
        *((("KV cache", kv_cache(found.kv_cache)),) if found.kv_cache.tokens is not None else ()),
    ]
    parts = [*_columns(rows), "", _nodes_table(found.nodes)]
    if kept := list(_kept_code(found.nodes)):
        parts += ["", "compiled code, kept for the next start:", *(f"  {line}" for line in kept)]
    if restarts := list(_restarts(found.nodes)):
        parts += ["", "restarts, latest last (by the nodes' own clocks):", *(f"  {line}" for line in restarts)]
    if found.drift:
        parts += ["", "differs from the inventory (clusterctl up would apply it):", *(f"  {d}" for d in found.drift)]
    if found.findings:
        parts += ["", "findings:", *(f"  {line}" for finding in found.findings for line in _brief(finding))]
    return "\n".join(parts)


def _sizes(of: UpSummary | ClusterStatus) -> str:
    """The sizes, those of several engines only where there are several."""
    engines = f"DP={of.data_parallel} x " if of.data_parallel > 1 else ""
    experts = ", whole experts on each rank" if of.expert_parallel else ""
    return f"{engines}TP={of.tensor_parallel} x PP={of.pipeline_parallel}{experts}"


def _balancing_row(of: ClusterStatus) -> Iterator[tuple[str, str]]:
    """Where requests come in, and are given to one of several engines."""
    if of.coordinator is not None:
        servers = "as many API servers as engines" if of.api_servers is None else f"API servers: {of.api_servers}"
        yield "balancing", f"{of.coordinator}: {servers}, and the coordinator"


def _engine_rows(engines: Sequence[EngineStatus]) -> Iterator[tuple[str, str]]:
    """Where several engines are, and what each does."""
    for engine in engines if len(engines) > 1 else ():
        load = ""
        if engine.running is not None and engine.waiting is not None and engine.kv_use is not None:
            load = f": {engine.running:g} running, {engine.waiting:g} waiting, KV use {engine.kv_use:.1%}"
        yield f"engine {engine.rank}", f"{', '.join(engine.nodes)}{load}"


def _kept_code(nodes: Iterable[NodeStatus]) -> Iterator[str]:
    for node in nodes:
        if node.cache is None:
            continue
        kept = node.cache
        most = f"at most {size(kept.max_bytes)} when a container starts"
        held = f"{size(kept.bytes)}, {most}" if kept.bytes is not None else "its size is known while the container runs"
        place = f"{kept.volume} ({kept.directory})" if kept.directory else kept.volume
        yield f"{node.name}: {place}: {f'cannot be used: {kept.problem}' if kept.problem else held}"


def _restarts(nodes: Iterable[NodeStatus]) -> Iterable[str]:
    """The latest restarts of all nodes, in order of time."""
    found = [(each, node.name) for node in nodes for container in node.containers for each in container.restarts]
    found.sort(key=lambda pair: float(pair[0].get("t", 0)))
    for each, name in found[-SHOWN_RESTARTS:]:
        at = datetime.fromtimestamp(float(each.get("t", 0)), UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        yield f"{at}  {name}  {each.get('scope')}: {each.get('detail')} [{each.get('reason')}]"


def _brief(finding: Finding) -> list[str]:
    headline, _why, fix = finding.lines()
    return [headline, fix]


def _server_rows(server: ServerAnswers) -> Iterable[tuple[str, str]]:
    completion = server.completion
    ok = not isinstance(completion, Unknown)
    yield (
        "completion",
        f"ok, {completion.latency_s:.2f} s" if not isinstance(completion, Unknown) else completion.reason,
    )
    if not ok:
        yield "/health", server.health.reason if isinstance(server.health, Unknown) else f"HTTP {server.health}"
    if not isinstance(server.metrics, Unknown):
        running, waiting = server.metrics.requests_running, server.metrics.requests_waiting
        yield "requests", f"{running:g} running, {waiting:g} waiting"
        yield "KV use", f"{server.metrics.kv_cache_usage:.1%}"
        yield "tokens/s", "unknown" if server.tokens_per_s is None else f"{server.tokens_per_s:g}"


def _nodes_table(nodes: Iterable[NodeStatus]) -> str:
    """A row for each node; where the terminal is too narrow for the longest words, a line for each value."""
    rows = [_node_row(node) for node in nodes]
    table = Table(box=None, pad_edge=False, header_style="")
    for column in NODE_COLUMNS:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    if needed_columns(table) <= terminal_columns():
        return text_of(table)
    blocks = [_columns(zip(NODE_COLUMNS, row, strict=True)) for row in rows]
    return "\n\n".join("\n".join(block) for block in blocks)


def _node_row(node: NodeStatus) -> tuple[str, ...]:
    container = ", ".join(c.status + (f" ({c.exit_code})" if c.status == "exited" else "") for c in node.containers)
    agent = ", ".join(c.phase or "?" for c in node.containers)
    memory = ", ".join(_gpu_memory(gpu) for gpu in node.gpu_memory)
    return (
        node.name,
        node.role,
        node.address or "?",
        "yes" if node.reachable else f"NO: {node.reason}",
        container or ("-" if node.reachable else "?"),
        agent or "-",
        {True: "alive", False: "missing", None: "-"}[node.in_ray],
        "-" if node.gpus is None else str(node.gpus),
        memory or "-",
        ", ".join(str(stage) for stage in node.stages) or "-",
        ", ".join(str(c.restarts_total) for c in node.containers) or "-",
    )


def _gpu_memory(gpu: GpuStatus) -> str:
    if gpu.memory_total_mib is None:
        return "unified"
    return f"{'?' if gpu.memory_used_mib is None else gpu.memory_used_mib}/{gpu.memory_total_mib} MiB"


def _columns(rows: Iterable[tuple[str, str]]) -> list[str]:
    pairs = list(rows)
    width = max(len(name) for name, _ in pairs)
    return [f"  {name:<{width}}  {value}" for name, value in pairs]
