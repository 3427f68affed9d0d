"""`bench`: vLLM's own `vllm bench serve`, in the head's container, over a sweep of loads. Nothing of ours measures."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count

from clusterctl import __version__
from clusterctl.actions.exec import Order, run_on_one
from clusterctl.actions.verify import serving, shape_of, versions
from clusterctl.agent.paths import API_KEY_PATH
from clusterctl.deployment.executor import choose
from clusterctl.errors import ClusterctlError
from clusterctl.facts.gather import gather
from clusterctl.hosts.host import Host, Hosts
from clusterctl.hosts.ssh.streams import Piece
from clusterctl.inventory.endpoint import tls_certfile
from clusterctl.inventory.model import Inventory
from clusterctl.progress import Progress
from clusterctl.records.benchmark import Benchmark, Level, Load, Run, Traffic, enough, read_result, unsteady
from clusterctl.records.saturation import Limits, next_load, saturation
from clusterctl.records.verification import Software
from clusterctl.status.asking import Asker
from clusterctl.status.server import api_client
from clusterctl.status.status import ClusterStatus, status_of

RUN_S = 3600
"""For one run."""
WARM_UPS = 16
"""Requests before each run that are not measured, at most: as many as are made at once."""
RATE_S = 30
"""Seconds that a run at a request rate lasts, about."""
LEAST_REQUESTS = 8
REQUESTS_EACH = 4
"""Requests of a run for each that is made at once: in fewer, the first and last ones, which are alone, would count."""
MARGIN_TOKENS = 16
"""Left of max-model-len: random prompts come out a few tokens longer than they were asked for."""
SHOWN_LINES = 8

SCRIPT = f"""
umask 077
out=$(mktemp -d) || exit 1
trap 'rm -rf "$out"' EXIT
trap 'exit 143' TERM INT
if [ -s {API_KEY_PATH} ]; then OPENAI_API_KEY=$(cat {API_KEY_PATH}); export OPENAI_API_KEY; fi
"$@" --save-result --result-dir "$out" --result-filename result.json </dev/null >&2 || exit
cat "$out/result.json"
"""
"""Runs its arguments; the result on stdout, what they say on stderr. The key is in no command line."""


@dataclass(frozen=True)
class BenchOptions:
    """What is to be measured."""

    traffics: tuple[Traffic, ...]
    loads: tuple[Load, ...]
    """Empty: twice as many at once, again and again, until that adds nothing."""
    repeat: int
    """Runs of each load at most."""
    requests: int | None
    """Of each run; None: from the load."""


@dataclass(frozen=True)
class Target:
    """Whom the runs ask."""

    inventory: Inventory
    endpoint: str
    seeds: Iterator[int]
    """Each run takes one, so that none of its prompts is in the prefix cache, whatever its length."""


def bench(hosts: Hosts, inventory: Inventory, asked: BenchOptions, progress: Progress, made_at: datetime) -> Benchmark:
    """Measure what serves. Its load is the cluster's: clients meanwhile wait longer, and disturb the numbers.

    Raises ClusterctlError when nothing serves, or the first level could not be measured.
    """
    progress.phase("looking at the nodes")
    facts = gather(hosts, inventory, progress)
    status = serving(status_of(hosts, inventory, facts), "bench")
    assert status.endpoint is not None  # noqa: S101 (serving() says so)
    inventory = choose(inventory, facts).inventory
    software = versions(hosts, inventory).get(inventory.head_name)
    with api_client(hosts, inventory, status.endpoint) as client:
        longest = Asker(client, inventory.served_name).longest()
    target = Target(inventory, status.endpoint, count(secrets.randbelow(1 << 30)))
    asked, notes = fitted(asked, longest)
    levels: list[Level] = []
    early = measured(hosts.head, target, asked, progress, levels)
    limits = Limits(status.data_parallel, status.kv_cache.tokens, max_num_seqs(inventory))
    result = Benchmark(
        made_at=f"{made_at:%Y-%m-%dT%H:%M:%SZ}",
        clusterctl=__version__,
        cluster=status.cluster,
        model=status.model,
        model_path=inventory.model.path,
        endpoint=status.endpoint,
        image=inventory.container.image,
        vllm=software.vllm if isinstance(software, Software) else None,
        shape=shape_of(status),
        kv_tokens=status.kv_cache.tokens,
        max_model_len=longest,
        levels=tuple(levels),
        saturation=(),
        notes=(*notes, *others(status), *filter(None, [unsteady(levels)])),
        ended_early=early,
    )
    found = (saturation(result.levels_of(traffic), limits) for traffic in result.traffics)
    return replace(result, saturation=tuple(found))


def measured(head: Host, target: Target, asked: BenchOptions, progress: Progress, levels: list[Level]) -> str | None:
    """Everything that is wanted, into `levels`. What was measured before a failure, or Ctrl-C, is not lost: returned is
    why it ended early then. Raises what ended it before anything was measured."""
    try:
        for traffic in asked.traffics:
            progress.phase(f"requests of {traffic} tokens")
            for level in _levels(head, target, traffic, asked, progress):
                levels.append(level)
    except (ClusterctlError, KeyboardInterrupt) as error:
        if not levels:
            raise
        return error.full_message() if isinstance(error, ClusterctlError) else "interrupted"
    return None


def fitted(asked: BenchOptions, longest: int | None) -> tuple[BenchOptions, tuple[str, ...]]:
    """The same with requests that the server takes, and what was changed."""
    made, notes = [], []
    for traffic in asked.traffics:
        total, room = traffic.input_tokens + traffic.output_tokens, (longest or 1 << 62) - MARGIN_TOKENS
        if total <= room:
            made.append(traffic)
            continue
        shorter = Traffic(max(1, traffic.input_tokens * room // total), max(1, traffic.output_tokens * room // total))
        made.append(shorter)
        notes.append(f"requests of {traffic} tokens were shortened to {shorter}: max-model-len is {longest}")
    return replace(asked, traffics=tuple(dict.fromkeys(made))), tuple(notes)


def others(status: ClusterStatus) -> Iterator[str]:
    """What was there before that disturbs the numbers."""
    working = sum((engine.running or 0) + (engine.waiting or 0) for engine in status.engines)
    if working:
        yield f"{working} requests of other clients were there when it began: they disturb the numbers"
    if status.state != "healthy":
        yield f"the cluster was {status.state} when it began (clusterctl status says why)"


def max_num_seqs(inventory: Inventory) -> int | None:
    """Requests that an engine works on at once, where the inventory says it; vLLM's default depends on the GPU."""
    said = inventory.serve.options.get("max-num-seqs")
    return said if isinstance(said, int) and not isinstance(said, bool) else None


def requests_of(load: Load, asked: int | None) -> int:
    """Of one run."""
    each = REQUESTS_EACH if load.concurrency is not None else RATE_S
    return asked or max(LEAST_REQUESTS, round(load.amount * each))


def bench_argv(target: Target, traffic: Traffic, load: Load, requests: int) -> list[str]:
    """The command line of one run (vLLM 0.32, vllm/benchmarks/serve.py), without where the result goes."""
    inventory = target.inventory
    options = inventory.serve.options
    tokenizer = options.get("tokenizer")
    limit = (
        ["--max-concurrency", str(load.concurrency)]
        if load.concurrency is not None
        else ["--request-rate", str(load.request_rate)]
    )
    warm_ups = min(WARM_UPS, round(load.amount) or 1)
    return [
        *("vllm", "bench", "serve", "--backend", "openai", "--base-url", target.endpoint),
        *("--model", inventory.served_name),
        *("--tokenizer", tokenizer if isinstance(tokenizer, str) else inventory.model.path),
        *(["--tokenizer-mode", mode] if isinstance(mode := options.get("tokenizer-mode"), str) else []),
        *(["--trust-remote-code"] if options.get("trust-remote-code") is True else []),
        *("--dataset-name", "random", "--random-input-len", str(traffic.input_tokens)),
        *("--random-output-len", str(traffic.output_tokens), "--ignore-eos", "--temperature", "0"),
        *("--num-prompts", str(requests), "--num-warmups", str(warm_ups), "--seed", str(next(target.seeds)), *limit),
        *("--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,90,99", "--disable-tqdm"),
        # Its own node's own address: nothing leaves the machine, and the certificate mostly has another name.
        *(["--insecure"] if tls_certfile(inventory) is not None else []),
    ]


def _levels(head: Host, target: Target, traffic: Traffic, asked: BenchOptions, progress: Progress) -> Iterator[Level]:
    """At every load that is wanted, or that the search comes to."""
    levels: list[Level] = []
    for load in _loads(asked, levels):
        runs: list[Run] = []
        while not enough(runs, asked.repeat):
            argv = bench_argv(target, traffic, load, requests_of(load, asked.requests))
            runs.append(_run(head, target.inventory.cluster, argv))
            latest = runs[-1]
            progress.detail(
                f"{load}, run {len(runs)}: {latest.total_tokens_per_s:.0f} tokens/s, "
                f"first token after {latest.ttft.p50:.0f} ms (median)"
            )
        levels.append(Level(traffic, load, tuple(runs)))
        yield levels[-1]


def _loads(asked: BenchOptions, levels: Sequence[Level]) -> Iterator[Load]:
    """Those that are wanted; else twice as many again and again, as `levels`, which grows meanwhile, says."""
    if asked.loads:
        yield from asked.loads
        return
    while (load := next_load(levels)) is not None:
        yield load


def _run(head: Host, cluster: str, argv: Sequence[str]) -> Run:
    """One run. Raises ClusterctlError with the last words of one that failed."""
    said: dict[str, bytes] = {"stdout": b"", "stderr": b""}

    def keep(piece: Piece) -> None:
        said[piece[0]] += piece[1]

    # Proxies that the container's environment names are not for its own node.
    order = Order(cluster, ["env", "NO_PROXY=*", "no_proxy=*", "sh", "-c", SCRIPT, "sh", *argv], False, RUN_S)
    code = run_on_one(head, order, keep, None)
    if code != 0:
        words = [line for line in said["stderr"].decode(errors="replace").splitlines() if line.strip()]
        shown = "\n".join(f"  {line[:300]}" for line in words[-SHOWN_LINES:])
        raise ClusterctlError(
            f"{head.name}: `vllm bench serve` ended with exit code {code}:\n{shown}",
            hint="clusterctl exec NODE -- vllm bench serve --help says what the image's vLLM can do",
        )
    return read_result(said["stdout"].decode(errors="replace"))
