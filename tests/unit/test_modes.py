"""What a mode decides, as data that the agent knows by kind; and how little knows that there is such a mode as Ray."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pytest

from clusterctl.agent.inside.children import PROGRAMS
from clusterctl.agent.inside.gates import GATES
from clusterctl.agent.inside.watches import WATCHES
from clusterctl.agent.paths import AGENT_CONFIG_PATH, AGENT_PATH, SOURCES
from clusterctl.agent.reasons import FAILURES
from clusterctl.modes.all import MODES, STEPS, mode_of
from clusterctl.modes.mode import Mode, ProcessLives, Seen
from clusterctl.modes.place import Place
from clusterctl.planning.container import container_specs
from tests.house import House
from tests.unit.support import deployment, inventory, specs

NAMING_RAY: Mapping[str, str] = {
    # The mode itself, and the rows of the tables that name it.
    "modes/ray.py": "the mode",
    "modes/all.py": "the table of modes",
    "agent/inside/ray_cluster.py": "what the agent does of Ray",
    "agent/inside/children.py": "a row of the table of programs",
    "agent/inside/node.py": "a key of settings.json, from timeouts.ray_s, which `plan` shows",
    "agent/inside/gates.py": "a row of the table of gates, and the reasons that are waited for",
    "agent/inside/watches.py": "rows of the table of watches",
    "agent/inside/hang.py": "titles of the server's processes",
    "agent/labels.py": "what containers run that have no label yet",
    "findings/rules/unified_memory.py": "Ray's own limit of the machine's memory",
    "findings/rules/modes.py": "what an image may lack",
    "deployment/executor.py": "which executor is meant where the inventory leaves it open, and why",
    "actions/decide.py": "the same",
    # Words of the agent's that the operator's side reads: they are in recorded states, and in --json.
    "agent/reasons.py": "codes of reasons, in words",
    "agent/state.py": "names of phases",
    "diagnosis/causes_agents.py": "codes of reasons",
    "status/status.py": "a key of --json: in_ray",
    "ui/render.py": "the same",
    # The inventory's own fields.
    "inventory/model.py": "the section `ray`, timeouts.ray_s",
    "inventory/load.py": "ray.token_file is a path",
    "inventory/reference.py": "the reference of the sections",
    "actions/follow.py": "timeouts.ray_s",
    "diagnosis/causes_containers.py": "a fix names ray.object_store_bytes",
    # Lines of logs, and what an image holds: true in every mode.
    "signatures/kernel.py": "lines of logs",
    "signatures/start.py": "lines of logs",
    "signatures/machine.py": "lines of logs",
    "signatures/ray.py": "lines of logs",
    "signatures/vllm.py": "lines of logs",
    "diagnosis/causes_logs.py": "Ray's own logs, when there are any",
    "diagnosis/evidence.py": "Ray's own logs, when there are any",
    "diagnosis/node.py": "Ray's own logs, when there are any",
    "diagnosis/received.py": "Ray's own logs are a part of the bundles that it reads",
    "diagnosis/pieces.py": "Ray's own logs, when there are any",
    "facts/image_report.py": "the image's report",
    "preflight/inside/report.py": "the image's report",
    "findings/rules/image_software.py": "findings of the image's report",
    "findings/identity.py": "versions that must be alike",
    "findings/rules/nodes_differ.py": "versions that must be alike",
    "records/verification.py": "versions in a record",
    "actions/verify.py": "versions in a record",
    "ui/verification.py": "versions in a record",
    "secrets/masking.py": "names of secrets",
    "secrets/redact.py": "names of secrets",
    # Prose.
    "apply/shutdown.py": "a line of progress",
    "cli/check.py": "help",
    "cli/restart.py": "help",
    "findings/rules/image.py": "why a finding matters",
    "findings/rules/addresses.py": "why a finding matters",
    "findings/rules/clocks.py": "why a finding matters",
    "findings/rules/disks.py": "why a finding matters",
    "findings/rules/gpus_in_container.py": "why a finding matters",
    "findings/rules/memory.py": "why a finding matters, Ray's own memory threshold",
    "findings/rules/pair_ports.py": "why a finding matters",
    "findings/reference.py": "the page's introduction",
}
"""File -> why it may. Nothing but the first part decides by it what a node runs."""


def test_only_these_files_name_ray() -> None:
    assert set(House().naming_ray) == set(NAMING_RAY)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_the_agent_knows_every_kind_that_a_mode_asks_for(mode: Mode) -> None:
    made = deployment()
    for place in made.places.values():
        processes, watches = mode.processes(made, place), mode.watches(made, place)
        names = [process.name for process in processes]
        assert {process.program for process in processes} <= set(PROGRAMS)
        assert mode.gate(made, place).kind in GATES
        assert {watch.kind for watch in watches} <= set(WATCHES)
        assert {watch.process for watch in watches} <= set(names)
        assert {watch.reason for watch in watches if isinstance(watch, ProcessLives)} <= set(FAILURES)
        assert sorted(mode.stop_order(made, place)) == sorted(names)
        assert sum(process.gated for process in processes) <= 1
        assert bool(mode.server(made, place)) == any(process.gated for process in processes)
        assert all(process.gated or process.stop_s is not None for process in processes)
        assert {process.name for process in processes if not process.gated} <= set(STEPS)
    assert set(mode.secret_paths) == set(mode.secrets(made.inventory))


def agent_config(place: Place) -> dict[str, Any]:
    return dict(json.loads(specs()[place.name].files[AGENT_CONFIG_PATH]))


def test_over_ray_the_head_counts_the_nodes_and_a_worker_watches_its_head() -> None:
    made = deployment()
    head, worker = made.places.values()
    store = {"address": "10.77.0.11", "port": 6379}
    told = agent_config(head)
    assert told["gate"] == {
        "kind": "ray-nodes",
        **store,
        "raylet_port": 6380,
        "expected": {"10.77.0.11": 2, "10.77.0.12": 2},
    }
    assert told["stop"] == ["server", "ray"]
    assert [(each["kind"], each["process"]) for each in told["watches"]] == [
        ("process", "ray"),
        ("process", "server"),
        ("completion", "server"),
        ("ray-actors", "server"),
    ]
    ray, server = told["processes"]
    assert ray["argv"][:3] == ["ray", "start", "--head"]
    assert ray["after"] is None
    assert "argv" not in server, "in server.json, which is read anew at each start"
    told = agent_config(worker)
    assert told["gate"] == {"kind": "none"}
    assert told["watches"][1] == {"kind": "ray-control-store", "process": "ray", **store}
    (ray,) = told["processes"]
    assert ray["after"] == ["10.77.0.11", 6379]


def test_an_image_without_ray_is_refused_and_one_that_is_not_known_is_not() -> None:
    made = inventory()
    (refusal,) = mode_of(made).refuses(made, Seen(lacks=frozenset({"ray"})))
    assert "holds no Ray" in refusal.reason
    assert refusal.instead
    assert not list(mode_of(made).refuses(made, Seen(lacks=frozenset())))
    assert not list(mode_of(made).refuses(made, Seen()))
    assert all(field.default is None for field in fields(Seen)), "nothing is known before it was asked"


def test_the_operators_environment_wins_but_for_what_the_mode_owns() -> None:
    made = deployment({"container": {"env": {"RAY_DEDUP_LOGS": "1"}}})
    environment = container_specs(made)["gpu1"].config["environment"]
    assert environment["RAY_DEDUP_LOGS"] == "1"
    assert environment["RAY_ADDRESS"] == "10.77.0.11:6379"
    assert mode_of(made.inventory).owned_environment - {"RAY_AUTH_TOKEN"} <= set(environment)


def test_nothing_of_ours_can_hide_a_module_of_the_image() -> None:
    """The directory that is on the path of modules holds the package alone."""
    spec = specs()["gpu1"]
    in_opt = {path for path in spec.files if path.startswith("/opt/clusterctl/")}
    assert in_opt == set(SOURCES)
    assert all(path.startswith(f"{AGENT_PATH}/") for path in in_opt)
    assert spec.config["entrypoint"] == ["python3", AGENT_PATH]
