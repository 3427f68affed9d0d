"""Mode and sizes, from the ranking of every way to serve. Pure."""

from __future__ import annotations

from clusterctl.facts.fact import Unknown
from clusterctl.layout.candidate import GIB
from clusterctl.layout.ranking import Way
from clusterctl.layout.report import Report
from clusterctl.proposal.choice import Choice, Rejected

SHOWN = 5
"""Other ways that are told of."""


def sizes(report: Report | Unknown) -> Choice:
    """What `serve` says: the first way that is possible; `auto` sizes where there is none, or nothing is known."""
    if isinstance(report, Unknown):
        return Choice("serve", {}, f"sizes stay auto: {report.reason}")
    ways = report.ranking.ways
    possible = [way for way in ways if way.candidate.possible]
    if not possible:
        why = f"sizes stay auto: {report.model} fits these nodes in no way"
        rejected = tuple(Rejected(text_of(way), _problem(way)) for way in ways[:SHOWN])
        warning = f"{report.model} fits these nodes in no way: {_problem(ways[0])}" if ways else why
        return Choice("serve", {}, why, rejected, (warning,))
    best = possible[0]
    others = [way for way in ways if way is not best]
    rejected = tuple(Rejected(text_of(way), _why_not(way, best)) for way in others[:SHOWN])
    return Choice("serve", _settings(best, len(report.nodes)), _why(best, report), rejected)


def _settings(way: Way, nodes: int) -> dict[str, int | bool | str]:
    # Several engines on several nodes are not possible over Ray.
    executor = {"executor": "mp"} if way.engines > 1 and nodes > 1 else {}
    return {**executor, **way.settings}


def text_of(way: Way) -> str:
    """`2 engines of TP 4 x PP 1`."""
    engines = f"{way.engines} engines of " if way.engines > 1 else ""
    experts = ", whole experts on each rank" if way.expert_parallel else ""
    return f"{engines}TP {way.candidate.tensor_parallel} x PP {way.candidate.pipeline_parallel}{experts}"


def _why(way: Way, report: Report) -> str:
    rate = f"about {way.speed.tokens_per_s:,.0f} tokens/s for {report.ranking.workload.requests} requests at once" if (
        way.speed
    ) else "exchanges least between the nodes"  # fmt: skip
    fits = "" if way.candidate.fits else "; whether it fits could not be computed"
    unknown = report.ranking.unknown[:1] if way.speed is None else ()
    return f"{text_of(way)}: {rate}{fits}{''.join(f' ({reason})' for reason in unknown)}"


def _why_not(way: Way, best: Way) -> str:
    if not way.candidate.possible:
        return _problem(way)
    if way.speed is not None and best.speed is not None:
        return f"about {way.speed.tokens_per_s:,.0f} tokens/s"
    return "exchanges more between accelerators, or leaves less room" if way.speed is None else "slower"


def _problem(way: Way) -> str:
    if way.candidate.problems:
        return way.candidate.problems[0].text
    missing = way.candidate.missing_bytes or 0
    return f"does not fit: a GPU lacks {missing / GIB:.1f} GiB for the weights and one request of full length"
