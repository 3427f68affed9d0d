"""What `plan` shows and `up` carries out: look at the nodes, check, resolve, plan."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from clusterctl.actions.decide import decide
from clusterctl.agent.paths import container_name
from clusterctl.deployment.resolve import resolve
from clusterctl.facts.api_key import ApiKeys, api_keys
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.gather import gather
from clusterctl.findings.finding import ChecksFailedError, Cure, Finding, has_errors
from clusterctl.findings.rules import check
from clusterctl.hosts.host import Hosts
from clusterctl.inventory.model import Inventory
from clusterctl.lock.run import Run
from clusterctl.modes.place import Deployment
from clusterctl.planning.plan import Plan, make_plan
from clusterctl.preflight.run import with_deep
from clusterctl.progress import SILENT, Progress


@dataclass(frozen=True)
class Prepared:
    """What `plan` shows and `up` carries out."""

    facts: ClusterFacts
    findings: tuple[Finding, ...]
    deployment: Deployment
    plan: Plan
    keys: ApiKeys

    @property
    def inventory(self) -> Inventory:
        """What is asked for, with the executor decided."""
        return self.deployment.inventory


def prepare(hosts: Hosts, inventory: Inventory, progress: Progress = SILENT, *, anew: bool = False) -> Prepared:
    """Read, check and plan; changes nothing. Raises ChecksFailedError when starting would surely fail, and UsageError
    for a file that cannot be a key.

    With `anew` the plan replaces what runs, whether it differs or not.
    """
    facts = gather(hosts, inventory, progress)
    choice = decide(hosts, inventory, facts, progress)
    findings = passed(check(choice.inventory, facts))
    deployment = resolve(choice.inventory, facts)
    keys = api_keys(choice.inventory, hosts.head, container_name(choice.inventory.cluster))
    plan = replace(make_plan(deployment, facts, anew=anew, other_key=keys.changes), why=choice.why)
    return Prepared(facts, findings, deployment, plan, keys)


def prepare_to_start(run: Run, *, full_check: bool, anew: bool) -> Prepared:
    """The same, and with `full_check`, where a gang is to be started, also what only running something on the nodes
    shows: the image's report, the network between the nodes. A cluster that serves is not disturbed by that.

    Raises ChecksFailedError.
    """
    run.progress.phase("checking the nodes")
    prepared = prepare(run.hosts, run.inventory, run.progress, anew=anew)
    if not full_check or not prepared.plan.new_gang:
        return prepared
    run.progress.detail("running the image on every node, and trying the network between them")
    facts = with_deep(run.hosts, prepared.inventory, prepared.facts)
    return replace(prepared, facts=facts, findings=passed(check(prepared.inventory, facts)))


def passed(findings: tuple[Finding, ...], cures: Collection[Cure] = ()) -> tuple[Finding, ...]:
    """The findings, if none of them means that starting would surely fail although a plan has the steps `cures`. Raises
    ChecksFailedError."""
    if has_errors(findings, cures):
        raise ChecksFailedError(findings, cures)
    return findings
