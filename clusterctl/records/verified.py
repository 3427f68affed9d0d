"""Two records of `verify`: what differs, and whether it matters."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.records.difference import Comparison, Difference, Same, told
from clusterctl.records.outputs import Observed, apart
from clusterctl.records.spread import judged, spread
from clusterctl.records.verification import Verification, own_noise

LEAST_TOLERANCE = 0.02
"""Log-probabilities this near are taken for equal whatever the cluster's own noise: sums over ranks are rounded in
another order (up to 0.004 apart between all layouts of the lab's dense model in bfloat16)."""

LAYOUT_TOLERANCE = 0.05
"""The same between two layouts: with experts the order differs more (the lab's tiny-moe in bfloat16: 0.027 apart
between DP 2 and TP 2, same weights)."""

NOISE_FACTOR = 3
"""A difference counts from this many times what a cluster differs from itself."""

KV_MARGIN = 0.05
"""Fraction by which the KV cache may be smaller: memory that is free at a start varies a little."""

SPEED_MARGIN = 0.2
"""Fraction by which the ranges of times to the first token are widened: a handful of requests, through SSH."""

Found = Iterator[Difference | Same]


def compare(old: Verification, new: Verification, *, where: str, tolerance: float | None = None) -> Comparison:
    """The newer record against the older. `tolerance`: of log-probabilities; None: what the clusters' own noise asks
    for."""
    found = list(_all(old, new, tolerance if tolerance is not None else tolerance_of(old, new)))
    return Comparison(
        old=f"{where} of {old.made_at}",
        differences=tuple(each for each in found if isinstance(each, Difference)),
        same=tuple(each for each in found if isinstance(each, Same)),
    )


def tolerance_of(old: Verification, new: Verification) -> float:
    """Of log-probabilities, from how far each cluster differs from itself, and whether it is another layout."""
    least = LEAST_TOLERANCE if old.shape == new.shape else LAYOUT_TOLERANCE
    return max(least, NOISE_FACTOR * max(own_noise(old), own_noise(new)))


def _all(old: Verification, new: Verification, tolerance: float) -> Found:
    yield from _what_runs(old, new)
    yield from _kv_cache(old, new)
    yield from _transport(old, new)
    for problem in new.problems:
        if problem not in old.problems:
            yield Difference("health", "fine", problem, True, "the cluster did better before")
    yield from _outputs(old, new, tolerance)
    yield from _speed(old, new)


def _what_runs(old: Verification, new: Verification) -> Iterator[Difference]:
    if old.model != new.model or old.model_path != new.model_path:
        yield Difference(
            *("model", f"{old.model} ({old.model_path})", f"{new.model} ({new.model_path})", old.model != new.model),
            "another name: compare records of one model" if old.model != new.model else "the same name, elsewhere",
        )
    yield from told("clusterctl", old.clusterctl, new.clusterctl, "not part of what serves")
    yield from told("layout", str(old.shape), str(new.shape), "outputs and speed say what it does")
    yield from told("image", old.image, new.image, "outputs and speed say what it does")
    yield from told("nodes", ", ".join(old.nodes), ", ".join(new.nodes), "outputs and speed say what it does")
    for name in new.nodes:
        if name in old.nodes:
            yield from _node(old, new, name)


def _node(old: Verification, new: Verification, name: str) -> Iterator[Difference]:
    one, other = old.nodes[name], new.nodes[name]
    why = "outputs and speed say what it does"
    yield from told(f"{name}: image ID", one.image, other.image, why)
    yield from told(f"{name}: NVIDIA driver", one.driver, other.driver, why)
    yield from told(f"{name}: kernel", one.kernel, other.kernel, why)
    yield from told(f"{name}: pipeline stages", one.stages, other.stages, why)
    yield from told(f"{name}: accelerators", len(one.gpus), len(other.gpus), why)
    if one.software is None or other.software is None:
        return
    before, after = vars(one.software), vars(other.software)
    changed = [key for key in after if key != "digest" and before[key] != after[key]]
    for key in changed:
        yield from told(f"{name}: {key}", before[key], after[key], why)
    if not changed and one.software.digest != other.software.digest:
        yield from told(
            f"{name}: Python packages", one.software.digest[:12], other.software.digest[:12], f"digests of all; {why}"
        )


def _kv_cache(old: Verification, new: Verification) -> Found:
    before, after = old.kv_cache.tokens, new.kv_cache.tokens
    if before is None or after is None:
        yield from told("KV cache", before, after, "not logged in one of the records")
    elif before != after:
        smaller = after < before * (1 - KV_MARGIN)
        matters = smaller and old.shape == new.shape
        why = (
            "with the same layout an engine holds fewer requests: what else takes memory on the accelerators?"
            if matters
            else "another layout"
            if old.shape != new.shape
            else f"less than {KV_MARGIN:.0%} smaller"
            if after < before
            else "larger"
        )
        yield Difference("KV cache", f"{before:,} tokens", f"{after:,} tokens", matters, why)
    else:
        yield Same("KV cache", f"{after:,} tokens")


def _transport(old: Verification, new: Verification) -> Found:
    before, after = old.transport, new.transport
    if before == after:
        yield Same("transport", after.said)
        return
    lost = before.proven and not after.proven and old.shape == new.shape
    slower = "Socket" in after.networks and before.proven and "Socket" not in before.networks
    why = (
        "traffic between nodes falls back to TCP"
        if slower
        else "it was proven before: start it with the same settings (container.env) to see it again"
        if lost
        else "no worse than before"
    )
    yield Difference("transport", before.said, after.said, slower or lost, why)


def _outputs(old: Verification, new: Verification, tolerance: float) -> Found:
    earlier = {each.name: each for each in old.outputs}
    for output in new.outputs:
        before = earlier.get(output.name)
        if before is None or not before.answers or not output.answers:
            continue  # what is missing now and was not before is among the problems
        if before.prompt != output.prompt or before.prompt_tokens != output.prompt_tokens:
            yield Difference(
                *(f"output `{output.name}`", _asked(before), _asked(output), True),
                "other prompts cannot be compared: make both records with one clusterctl and one max-model-len",
            )
            continue
        yield _output(before, output, tolerance)


def _output(old: Observed, new: Observed, tolerance: float) -> Difference | Same:
    """Its worst answer."""
    pairs = [apart(one, other) for one, other in zip(old.answers, new.answers, strict=False)]
    worst = max(pair.greatest for pair in pairs)
    real = [pair.parted for pair in pairs if pair.parted is not None and pair.parted[3] > 2 * tolerance]
    what, compared = f"output `{new.name}`", sum(pair.compared for pair in pairs)
    near = f"log-probabilities of {compared} tokens at most {worst:.4f} apart (tolerance {tolerance:.3f})"
    if real:
        place, before, after, gap = real[0]
        preferred = "" if gap == float("inf") else f", though its log-probability was {gap:.3f} higher"
        why = f"another token, and no near tie{preferred}: other weights, another precision, or a fault"
        return Difference(what, f"token {place + 1} {before!r}", f"token {place + 1} {after!r}", True, why)
    if worst > tolerance:
        why = f"more than the tolerance {tolerance:.3f}: other weights, another precision, or a fault"
        return Difference(what, "log-probabilities", f"up to {worst:.4f} apart in {compared} tokens", True, why)
    ties = sum(pair.parted is not None for pair in pairs)
    parted = f"; {ties} of {len(pairs)} part at a near tie" if ties else ""
    return Same(what, f"{near}{parted}")


def _asked(output: Observed) -> str:
    return f"{output.prompt!r}, {output.prompt_tokens} tokens"


def _speed(old: Verification, new: Verification) -> Found:
    earlier = {each.name: each for each in old.outputs}
    for output in new.outputs:
        before = earlier.get(output.name)
        one, other = spread(before.first_token_s) if before else None, spread(output.first_token_s)
        if one is None or other is None:
            continue
        shown = [f"{each.middle * 1000:.0f} ms ({each.least * 1000:.0f} to {each.most * 1000:.0f})"
                 for each in (one, other)]  # fmt: skip
        verdict = judged(one, other, SPEED_MARGIN, higher_is_better=False)
        what = "time to first token"
        if verdict == "within":
            yield Same(what, f"{shown[0]} before, {shown[1]} now: within the spread")
        else:
            slower = verdict == "worse"
            why = "beyond the spread: `clusterctl bench` measures it in earnest" if slower else "faster"
            yield Difference(what, shown[0], shown[1], slower, why)
