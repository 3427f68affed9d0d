"""`init`: look at machines that no inventory describes yet, and propose one. Changes nothing on them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clusterctl.errors import ClusterctlError, InventoryError, NodeFailure, NodesError, Problem, UsageError
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.gather import gather
from clusterctl.facts.records import EngineFacts
from clusterctl.facts.survey import Survey, survey
from clusterctl.hosts.host import Hosts
from clusterctl.inventory.explain import validate
from clusterctl.inventory.issue import KeyPath
from clusterctl.inventory.load import load_inventory
from clusterctl.inventory.model import Inventory, Node
from clusterctl.inventory.rules.all import Rule
from clusterctl.inventory.rules.container import model_path
from clusterctl.inventory.rules.nodes import node_hosts, this_machine
from clusterctl.layout.report import report
from clusterctl.progress import Progress
from clusterctl.proposal import machines, network, served
from clusterctl.proposal.choice import Choice
from clusterctl.proposal.draft import CPU_ENV, Draft, LostNode, NodeDraft, with_serve
from clusterctl.proposal.sizes import sizes
from clusterctl.rendering import templates_dir

NO_MODEL, NO_IMAGE = "/nothing-yet", "clusterctl-init:nothing-yet"
"""Stand for the model's directory and the image while nobody has chosen them: no node has them."""

_HOST = re.compile(r"(?:([^@\s]+)@)?([^@:\s]+)(?::(\d{1,5}))?")

Ask = Callable[[Choice], str]
"""Asks the operator for a field's value, with the proposed one as its default."""


@dataclass(frozen=True)
class Given:
    """What the operator said."""

    hosts: tuple[str, ...]
    """Each as [user@]host[:port]."""
    user: str | None = None
    jump: str | None = None
    key: Path | None = None
    known_hosts: Path | None = None
    model: str | None = None
    image: str | None = None
    cluster: str = "vllm"


@dataclass(frozen=True)
class Written:
    """What came of it."""

    draft: Draft
    path: Path
    to_fill_in: tuple[Problem, ...]
    """Placeholders, as `check` will report them."""


@dataclass(frozen=True)
class _Seen:
    inventory: Inventory
    """All nodes, whether they answered or not."""
    facts: ClusterFacts
    surveys: Mapping[str, Survey]

    @property
    def answering(self) -> Inventory:
        """Only those that answered: what is proposed must start with these alone."""
        nodes = tuple(node for node in self.inventory.nodes if node.name in self.facts.nodes)
        return self.inventory.model_copy(update={"nodes": nodes})


def propose(given: Given, *, accept_new_host_keys: bool, progress: Progress, ask: Ask | None = None) -> Draft:
    """Look, and propose. Raises UsageError for what was given, NodesError when no node answers."""
    inventory = _temporary(given)
    progress.phase("reading the nodes")
    seen = _look(inventory, progress, accept_new_host_keys=accept_new_host_keys)
    for engine, sudo in _OTHER_WAYS:
        if not _is_worth_a_look(seen.facts, engine):
            continue
        other = inventory.container.model_copy(update={"engine": engine, "sudo": sudo})
        with contextlib.suppress(NodesError):  # no sudo there
            looked_at = inventory.model_copy(update={"container": other})
            again = _look(looked_at, progress, accept_new_host_keys=accept_new_host_keys)
            seen = again if _engines(again.facts) > _engines(seen.facts) else seen
    seen = _renamed(seen)
    draft = _draft(given, seen, ask)
    if draft.model.missing or (draft.network is not None and draft.network.missing):
        return draft
    progress.phase("computing how the model can be spread over the nodes")
    return with_serve(draft, _sizes(seen.answering, draft, accept_new_host_keys=accept_new_host_keys))


def write(draft: Draft, path: Path, rules: tuple[Rule, ...]) -> Written:
    """Write the file and read it back. Raises UsageError where it is there already."""
    _write_new(path, draft.text())
    try:
        load_inventory(path, rules)
    except InventoryError as error:
        return Written(draft, path, error.problems)
    return Written(draft, path, ())


def refuse_existing(path: Path) -> None:
    """Raise UsageError where the file is there: nothing is overwritten."""
    if path.exists() or path.is_symlink():
        raise UsageError(
            f"{path} is there already, and is not overwritten",
            hint="give another file before the command: clusterctl -i NEW.yaml init …",
        )


# Looking.


def _temporary(given: Given) -> Inventory:
    """The nodes to look at, with names of their own for a while."""
    data: dict[str, Any] = {
        "version": 1,
        "cluster": given.cluster,
        "nodes": [{"name": f"node{number}", **_door(host)} for number, host in enumerate(given.hosts, start=1)],
        "container": {"image": given.image or NO_IMAGE},
        "accelerator": {"kind": "nvidia"},
        "model": {"path": given.model or NO_MODEL},
    }
    if ssh := _ssh(given):
        data["ssh"] = dict(ssh)
    inventory, mistakes = validate(data)
    issues = [*(issue for rule in (node_hosts, this_machine, model_path) for issue in rule(data)), *mistakes]
    if issues or inventory is None:
        raise UsageError(f"{_option(issues[0].path, given)}: {issues[0].message}", hint=issues[0].hint)
    return inventory


def _option(path: KeyPath, given: Given) -> str:
    """What the operator gave that is meant."""
    if path[:1] == ("nodes",) and len(path) > 1:
        return f"--hosts {given.hosts[int(path[1])]}"
    return "--model" if path == ("model", "path") else f"--{str(path[-1]).replace('_', '-')}"


def _door(host: str) -> dict[str, Any]:
    match = _HOST.fullmatch(host)
    if match is None:
        raise UsageError(f"{host!r} is no host", hint="give hosts as [user@]host[:port], with commas between them")
    user, name, port = match.groups()
    return {"host": name, **({"user": user} if user else {}), **({"port": int(port)} if port else {})}


def _ssh(given: Given) -> Mapping[str, str]:
    values = {"user": given.user, "jump": given.jump, "key": given.key, "known_hosts": given.known_hosts}
    paths = {
        name: str(Path(value).expanduser().absolute()) for name, value in values.items() if isinstance(value, Path)
    }
    return {name: paths.get(name, str(value)) for name, value in values.items() if value is not None}


def _look(inventory: Inventory, progress: Progress, *, accept_new_host_keys: bool) -> _Seen:
    with Hosts(inventory, accept_new_host_keys=accept_new_host_keys) as hosts:
        facts = gather(hosts, inventory, progress)
        if not facts.nodes:
            by_name = {node.name: node.host for node in inventory.nodes}
            lost = [NodeFailure(by_name[name], each.reason, each.fix) for name, each in facts.unreachable.items()]
            raise NodesError("looking", lost)
        progress.detail("looking for images and models")
        return _Seen(inventory, facts, survey(hosts))


_OTHER_WAYS: tuple[tuple[str, bool], ...] = (("docker", True), ("podman", False), ("podman", True))
"""Engine and sudo: a login that is not in the group `docker` may still reach the engine with `sudo -n`; and where no
node has Docker, root's Podman comes before the login's own."""


def _is_worth_a_look(facts: ClusterFacts, engine: str) -> bool:
    """Docker by sudo where it did not answer somewhere; Podman where no node has an engine, or only users' own."""
    if engine == "docker":
        return any(isinstance(node.engine, Unknown) for node in facts.nodes.values())
    return _engines(facts)[0] == 0


def _engines(facts: ClusterFacts) -> tuple[int, int]:
    """Engines of root, and all engines."""
    found = [node.engine for node in facts.nodes.values() if isinstance(node.engine, EngineFacts)]
    return sum(not engine.rootless for engine in found), len(found)


def _renamed(seen: _Seen) -> _Seen:
    """Everything by the names that the nodes get."""
    nodes = seen.inventory.nodes
    hostnames = [
        said if (node := seen.facts.nodes.get(each.name)) and isinstance(said := node.hostname, str) else None
        for each in nodes
    ]
    chosen = machines.names([node.host for node in nodes], hostnames)
    new = {node.name: choice.value for node, choice in zip(nodes, chosen, strict=True)}
    facts = replace(
        seen.facts,
        nodes={new[name]: node for name, node in seen.facts.nodes.items()},
        unreachable={new[name]: each for name, each in seen.facts.unreachable.items()},
    )
    renamed = tuple(node.model_copy(update={"name": new[node.name]}) for node in nodes)
    inventory = seen.inventory.model_copy(update={"nodes": renamed})
    return _Seen(inventory, facts, {new[name]: each for name, each in seen.surveys.items()})


# Proposing.


def _draft(given: Given, seen: _Seen, ask: Ask | None) -> Draft:
    inventory, facts = seen.answering, seen.facts
    shared = network.shared_networks(facts, {node.name: node.host for node in inventory.nodes})
    several = len(inventory.nodes) > 1
    net = network.network(facts, shared) if several else None
    kind, per_node = machines.accelerators(inventory, facts)
    image = served.image(seen.surveys, given.image)
    model = served.model(seen.surveys, given.model, _memory(facts))
    if ask is not None:
        image, model = _asked(ask, image, given.image), _asked(ask, model, given.model)
    chosen = next((each for each in shared if net is not None and str(each.network) == net.value), None)
    addresses = {} if chosen is None else {name: str(item.address) for name, item in chosen.addresses.items()}
    return Draft(
        cluster=given.cluster,
        nodes=tuple(_node(node, addresses) for node in inventory.nodes),
        lost=tuple(
            LostNode(_node(node, {}), lost.reason, lost.fix)
            for node in seen.inventory.nodes
            if (lost := facts.unreachable.get(node.name)) is not None
        ),
        ssh=_ssh(given),
        network=net,
        head=machines.head([node.name for node in seen.inventory.nodes], facts),
        engine=inventory.container.engine,
        sudo=machines.sudo(facts, with_sudo=inventory.container.sudo),
        ulimits=machines.ulimits(facts),
        kind=kind,
        per_node=per_node,
        image=image,
        model=model,
        serve=Choice("serve", {}, "sizes stay auto: without network and model they cannot be computed"),
    )


def _node(node: Node, addresses: Mapping[str, str]) -> NodeDraft:
    own = {name: value for name in ("user", "port") if (value := getattr(node, name)) is not None}
    address = {"address": addresses[node.name]} if node.name in addresses else {}
    return NodeDraft(node.name, node.host, {**own, **address})


def _asked(ask: Ask, choice: Choice, given: str | None) -> Choice:
    """What the operator wants instead, where he wants something else."""
    if given is not None:
        return choice
    answer = ask(choice)
    return choice if answer == choice.value else Choice(choice.field, answer, "as it was asked for")


def _memory(facts: ClusterFacts) -> int | None:
    """Of all accelerators, as far as it is known; of a node without GPUs, or with unified memory, its own."""
    totals: list[int | None] = []
    for node in facts.nodes.values():
        gpus = node.gpus if isinstance(node.gpus, tuple) else ()
        own = served.memory_of([each.memory_total_mib for each in gpus])
        system = node.system.memory_total_bytes
        totals.append(own * 1024**2 if own is not None else system if isinstance(system, int) else None)
    return served.memory_of(totals)


def _sizes(looked_at: Inventory, draft: Draft, *, accept_new_host_keys: bool) -> Choice:
    """From a second look, now that model and network are chosen."""
    data: dict[str, Any] = looked_at.model_dump(mode="json", exclude_unset=True, exclude={"nodes"})
    logins = [node.model_dump(mode="json", exclude_unset=True) for node in looked_at.nodes]
    data["nodes"] = [{**login, "name": node.name, **node.more} for login, node in zip(logins, draft.nodes, strict=True)]
    data |= {"accelerator": {"kind": draft.kind.value, "per_node": draft.per_node.value}, "head": draft.head.value}
    data |= {
        "model": {"path": draft.model.value},
        **({"network": {"cidr": draft.network.value}} if draft.network else {}),
    }
    image = NO_IMAGE if draft.image.missing else draft.image.value
    env = CPU_ENV if draft.kind.value == "cpu" else {}
    data["container"] = {"image": image, "engine": draft.engine, "sudo": draft.sudo.value, "env": env}
    inventory, mistakes = validate(data)
    if inventory is None:
        return Choice("serve", {}, f"sizes stay auto: {next(iter(mistakes)).message}")
    with Hosts(inventory, accept_new_host_keys=accept_new_host_keys) as hosts:
        return sizes(report(inventory, gather(hosts, inventory)))


def write_example(name: str, path: Path) -> None:
    """Write templates/inventories/NAME.yaml. Raises UsageError where the file is there already."""
    _write_new(path, (templates_dir() / "inventories" / f"{name}.yaml").read_text(encoding="utf-8"))


def _write_new(path: Path, text: str) -> None:
    refuse_existing(path)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ClusterctlError(f"cannot write {path}: {error.strerror}") from error
