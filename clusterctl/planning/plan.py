"""The difference between what should be and what is, as a value: printable, JSON, and what `apply` carries out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from clusterctl.facts.model import ClusterFacts, ContainerFacts, Unknown
from clusterctl.planning.container import LABEL_SPEC, ContainerSpec, container_specs
from clusterctl.planning.deployment import Deployment
from clusterctl.planning.masking import masked

Action = Literal["create", "replace", "keep"]


@dataclass(frozen=True)
class Change:
    """One value that differs: where, what it is now, what it shall be."""

    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.path}: {_shown(self.old)} -> {_shown(self.new)}"


@dataclass(frozen=True)
class NodePlan:
    """What `up` does on one node, and why."""

    node: str
    action: Action
    reasons: tuple[str, ...]
    changes: tuple[Change, ...]
    spec: ContainerSpec
    existing: tuple[str, ...]
    """IDs of the containers that are removed before the new one is created."""


@dataclass(frozen=True)
class Plan:
    """What `up` does, node by node in inventory order."""

    cluster: str
    nodes: tuple[NodePlan, ...]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return all(node.action == "keep" for node in self.nodes)

    def to_json(self) -> dict[str, Any]:
        """The plan for machines."""
        return {
            "cluster": self.cluster,
            "changes": not self.empty,
            "nodes": [
                {
                    "name": node.node,
                    "action": node.action,
                    "container": node.spec.name,
                    "reasons": list(node.reasons),
                    "differences": [
                        {"path": change.path, "old": change.old, "new": change.new} for change in node.changes
                    ],
                }
                for node in self.nodes
            ],
        }

    def lines(self) -> Iterator[str]:
        """The plan for a person."""
        if self.empty:
            yield f"{self.cluster}: nothing to do"
            return
        signs = {"create": "+", "replace": "-/+", "keep": " "}
        for node in self.nodes:
            yield f"{signs[node.action]:>3} {node.node}: {node.action} container {node.spec.name}"
            yield from (f"      {reason}" for reason in node.reasons)
            yield from (f"      {change}" for change in node.changes)
        counts = {action: sum(node.action == action for node in self.nodes) for action in signs}
        yield f"{counts['create']} to create, {counts['replace']} to replace, {counts['keep']} to keep"


def make_plan(deployment: Deployment, facts: ClusterFacts) -> Plan:
    """Compare. The gang starts and ends together: a rank that is lost takes the server with it (vllm-ray-facts), so
    one node's change replaces every node's container."""
    specs = container_specs(deployment)
    verdicts = {name: _verdict(spec, _containers(facts, name)) for name, spec in specs.items()}
    changed = [name for name, (reasons, _) in verdicts.items() if reasons]
    return Plan(
        deployment.inventory.cluster,
        tuple(_node_plan(name, specs[name], _containers(facts, name), verdicts[name], changed) for name in specs),
    )


Verdict = tuple[tuple[str, ...], tuple[Change, ...]]


def _containers(facts: ClusterFacts, name: str) -> tuple[ContainerFacts, ...]:
    containers = facts.nodes[name].containers
    return () if isinstance(containers, Unknown) else containers


def _node_plan(
    name: str, spec: ContainerSpec, existing: tuple[ContainerFacts, ...], verdict: Verdict, changed: list[str]
) -> NodePlan:
    reasons, changes = verdict
    if not changed:
        return NodePlan(name, "keep", (), (), spec, ())
    others = [other for other in changed if other != name]
    if not reasons:
        reasons = (f"the gang is replaced together with {', '.join(others)}",)
    action: Action = "replace" if existing else "create"
    return NodePlan(name, action, reasons, changes, spec, tuple(container.id for container in existing))


def _verdict(spec: ContainerSpec, existing: tuple[ContainerFacts, ...]) -> Verdict:
    """Why the node's container cannot stay as it is; no reasons when it can."""
    if not existing:
        return ("no container of this cluster on the node",), ()
    if len(existing) > 1:
        return (f"{len(existing)} containers carry this cluster's label",), ()
    container = existing[0]
    reasons = []
    changes: tuple[Change, ...] = ()
    if container.labels.get(LABEL_SPEC) != spec.hash:
        reasons.append("it was started with other values")
        if isinstance(container.spec, Mapping):
            changes = tuple(_differences(masked(_settings(container.spec)), masked(_settings(spec.values()))))
    if not container.running:
        reasons.append(f"it is not running ({container.status}, exit code {container.exit_code})")
    elif isinstance(container.state, Mapping) and container.state.get("phase") == "failed":
        reasons.append(f"it failed: {container.state.get('detail', 'no reason recorded')}")
    return tuple(reasons), changes


def _settings(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values as a person compares them: of a file whose content is known its settings, of another its hash."""
    files, contents = values.get("files"), values.get("file_contents")
    if not isinstance(files, Mapping) or not isinstance(contents, Mapping):
        return values
    shown = {path: _parsed(str(contents[path])) if path in contents else digest for path, digest in files.items()}
    return {**{key: value for key, value in values.items() if key != "file_contents"}, "files": shown}


def _parsed(content: str) -> Any:
    """A rendered file's settings: all of them are YAML, or JSON, which is YAML."""
    try:
        return yaml.safe_load(content)
    except yaml.YAMLError:
        return content


def _differences(old: Any, new: Any, path: str = "") -> Iterator[Change]:
    """Leaf by leaf."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif old != new:
        yield Change(path, old, new)


def _shown(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 100 and "\n" not in text else f"{text.splitlines()[0][:80]} …"
