"""Prometheus: what the agents answer, what is to be scraped, and the dashboard."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from clusterctl.agent.inside import metrics
from clusterctl.agent.inside.journal import Journal
from clusterctl.agent.inside.node import Node
from clusterctl.agent.paths import SETTINGS_PATH
from clusterctl.apply.gone import remains
from clusterctl.cli.main import cli
from clusterctl.deployment.firewall import Address, addresses, cluster_rules
from clusterctl.deployment.scrape import targets
from clusterctl.inventory.raw import dig
from clusterctl.modes.all import MODES, ports_of
from clusterctl.modes.rules import mode_rules
from clusterctl.rendering import templates_dir
from tests.unit.support import cluster_facts, inventory, node_facts, specs
from tests.unit.test_agent import PATIENCE_S, Start, free_port, start
from tests.unit.test_planning import actions, planned, running

__all__ = ["start"]  # the fixture

ON = {"metrics_port": 9400}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr("clusterctl.agent.inside.journal.STATE_DIR", tmp_path)
    return Node({"node": "gpu1", "role": "head"})


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Name and labels' values -> value."""
    families = text_string_to_metric_families(text)
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


def lived(node: Node) -> Node:
    """A head that was started twice, and serves."""
    node.unavailable.where = {"host": "127.0.0.1", "port": 1}
    journal = node.journal
    journal.phase("gate")
    journal.phase("loading")
    journal.restart("server", 'odd "reason"\\', "why")
    journal.phase("gate")
    time.sleep(0.05)
    journal.phase("loading")
    journal.phase("serving", ready=True)
    journal.restart("gang", "node-lost", "why")
    journal.restart("gang", "node-lost", "why")
    node.canaries[1] = (1000.0, 0.25)
    node.unavailable.refused = 3
    return node


def test_everything_is_told(node: Node) -> None:
    said = samples(metrics.page(lived(node), 12.0))
    assert said["clusterctl_ready",] == 1
    assert said["clusterctl_refused_requests_total",] == 3
    assert said["clusterctl_canary_latency_seconds", "1"] == 0.25
    assert said["clusterctl_restarts_total", "gang", "node-lost"] == 2
    assert said["clusterctl_restarts_total", "server", 'odd "reason"\\'] == 1
    assert said["clusterctl_agent_phase", "serving"] == 1
    assert 0.05 <= said["clusterctl_start_phase_seconds", "gate"] < 5
    assert said["clusterctl_agent_start_timestamp_seconds",] == 12


def test_what_was_counted_outlives_the_container(node: Node) -> None:
    lived(node)
    again = Journal("gpu1", "head")
    assert again.state["restart_counts"] == {"server": {'odd "reason"\\': 1}, "gang": {"node-lost": 2}}
    assert set(again.state["start_phases"]) == {"gate", "loading"}
    old = {key: value for key, value in node.journal.state.items() if key != "restart_counts"}
    node.journal.path.write_text(json.dumps(old))  # as an older agent left it
    assert Journal("gpu1", "head").state["restart_counts"] == again.state["restart_counts"]


def test_a_follower_does_not_say_that_it_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusterctl.agent.inside.journal.STATE_DIR", tmp_path)
    follower = Node({"node": "gpu2", "role": "worker"})
    for phase in ("standby", "running"):
        follower.journal.phase(phase)
    said = samples(metrics.page(follower, 12.0))
    assert ("clusterctl_ready",) not in said
    assert ("clusterctl_start_phase_seconds", "standby") in said


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Debian's package prometheus has promtool")
def test_promtool_has_nothing_to_say_against_it(node: Node) -> None:
    page = metrics.page(lived(node), time.time()).encode()
    said = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, timeout=60, check=False)
    assert (said.returncode, said.stdout + said.stderr) == (0, b"")
    bad = page.replace(b"refused_requests_total", b"refused_requests")
    said = subprocess.run(["promtool", "check", "metrics"], input=bad, capture_output=True, timeout=60, check=False)
    assert said.returncode != 0


def test_an_agent_begins_to_answer_while_it_runs_and_ends(start: Start) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    run = start()
    run.until_phase("serving")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/metrics")
    settings = json.loads((run.fake / "settings.json").read_text())
    run.write("settings.json", {**settings, "metrics": {"host": "127.0.0.1", "port": port}})
    answer = patiently(lambda: httpx.get(f"{url}/metrics"))
    assert answer.headers["Content-Type"] == metrics.CONTENT_TYPE
    said = samples(answer.text)
    assert said["clusterctl_ready",] == 1
    assert ("clusterctl_start_phase_seconds", "loading") in said
    assert httpx.get(url).status_code == 404
    assert httpx.post(f"{url}/metrics").status_code == 405
    assert httpx.head(f"{url}/metrics").text == ""
    run.write("settings.json", {**settings, "metrics": None})
    deadline = time.monotonic() + PATIENCE_S
    with pytest.raises(httpx.ConnectError):
        while time.monotonic() < deadline:
            httpx.get(f"{url}/metrics")
            time.sleep(0.1)


def patiently(ask: Callable[[], httpx.Response]) -> httpx.Response:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except httpx.ConnectError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_a_port_that_is_taken_is_said_once_and_tried_again(node: Node, capfd: pytest.CaptureFixture[str]) -> None:
    async def tried() -> None:
        exporter = metrics.Exporter(node)
        holder = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
        for _ in range(2):
            await exporter.follow({"host": "127.0.0.1", "port": port})
            assert exporter.server is None
        holder.close()
        await holder.wait_closed()
        await exporter.follow({"host": "127.0.0.1", "port": port})
        assert exporter.server is not None
        exporter.close()

    port = free_port()
    asyncio.run(tried())
    assert capfd.readouterr().err.count("metrics-port-closed") == 1


# The port, like every other one.


def test_off_until_asked() -> None:
    for number in (1, 2):
        assert json.loads(specs()[f"gpu{number}"].files[SETTINGS_PATH])["metrics"] is None
        asked = json.loads(specs(ON)[f"gpu{number}"].files[SETTINGS_PATH])["metrics"]
        assert asked == {"host": f"10.77.0.1{number}", "port": 9400}


def test_a_serving_cluster_is_not_restarted_for_it() -> None:
    plan = planned(ON, running())
    assert actions(plan) == {"gpu1": "update", "gpu2": "update"}
    for step in plan.steps:
        assert all(change.path.startswith(f"files.{SETTINGS_PATH}.metrics") for change in step.changes), step.changes


def test_the_port_is_one_of_the_clusters() -> None:
    for executor in ("ray", "mp"):
        of = inventory({**ON, "serve": {"executor": executor}})
        assert all(ports_of(of, node)[9400] == "metrics_port" for node in ("gpu1", "gpu2"))
        assert "metrics_port" not in ports_of(inventory({"serve": {"executor": executor}}), "gpu1").values()
        (mode,) = (each for each in MODES if each.name == executor)
        assert 9400 in mode.ports(of, "gpu2"), "`down` looks whether it is closed"
    taken = node_facts(2, {"listeners": {"9400": "python3 (pid 7)"}})
    assert any("9400" in what for what, _ in remains(taken, taken, ports={9400}, pids=set()))


def test_two_cannot_have_one_port() -> None:
    (issue,) = mode_rules({"nodes": [{}], "metrics_port": 8000})
    assert (issue.path, dig({"metrics_port": 8000}, *issue.path)) == (("metrics_port",), 8000)
    assert not list(mode_rules({"nodes": [{}], "metrics_port": None}))


def test_the_firewall_closes_it_but_to_prometheus() -> None:
    of, network = inventory(ON), IPv4Network("192.0.2.7/32")
    places = addresses(of, cluster_facts())
    for node in cluster_rules(of, places, ()):
        closed = [rule for rule in node.rules if rule.action == "drop" and rule.protocol == "tcp"]
        assert any(first <= 9400 <= last for rule in closed for first, last in rule.ports), node.node
    head, worker = cluster_rules(of, places, (), (network,))
    for node, ports in ((head, {8000, 9400}), (worker, {9400})):
        (rule,) = (rule for rule in node.rules if rule.sources == (network,))
        assert {first for first, _ in rule.ports} == ports
        assert node.rules.index(rule) < min(i for i, each in enumerate(node.rules) if each.action == "drop")
    off = cluster_rules(inventory(), places, (), (network,))
    assert [sum(rule.sources == (network,) for rule in node.rules) for node in off] == [1, 0]


# What Prometheus is told.


def test_targets_are_the_agents_and_the_server() -> None:
    places = addresses(inventory(), cluster_facts())
    found = targets(inventory(ON), places)
    assert [(each["targets"], each["labels"]["node"], each["labels"]["exporter"]) for each in found] == [
        (["10.77.0.11:9400"], "gpu1", "clusterctl"),
        (["10.77.0.12:9400"], "gpu2", "clusterctl"),
        (["10.77.0.11:8000"], "gpu1", "vllm"),
    ]
    tls = {"serve": {"options": {"ssl-certfile": "/c.pem", "ssl-keyfile": "/k.pem"}}}
    (server,) = targets(inventory(tls), places)
    assert server["labels"]["__scheme__"] == "https"


@contextmanager
def prometheus(folder: Path, said: object) -> Iterator[str]:
    """A real one, that scrapes what file_sd says; its URL."""
    (folder / "targets.json").write_text(json.dumps(said))
    scrape = {"job_name": "clusterctl", "scrape_interval": "1s", "file_sd_configs": [{"files": ["targets.json"]}]}
    (folder / "prometheus.yml").write_text(json.dumps({"scrape_configs": [scrape]}))
    port = free_port()
    own = [f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml", *own], stdout=log, stderr=log, cwd=folder
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        running.terminate()
        running.wait(30)


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's package prometheus is not installed")
def test_a_real_prometheus_reads_an_agent(start: Start, tmp_path_factory: pytest.TempPathFactory) -> None:
    port = free_port()
    run = start()
    run.until_phase("serving")
    settings = json.loads((run.fake / "settings.json").read_text())
    run.write("settings.json", {**settings, "metrics": {"host": "127.0.0.1", "port": port}})
    alone = inventory({"metrics_port": port, "serve": {"port": free_port()}})
    (agent, *_) = targets(alone, {name: Address(IPv4Address("127.0.0.1")) for name in ("gpu1", "gpu2")})
    with prometheus(tmp_path_factory.mktemp("prometheus"), [agent]) as url:
        found = asked(url, "clusterctl_ready")
    assert found["value"][1] == "1"
    assert found["metric"]["node"] == "gpu1"
    assert found["metric"]["cluster"] == alone.cluster


def asked(url: str, query: str) -> Any:
    """The first series of its answer, once there is one."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            found = httpx.get(f"{url}/api/v1/query", params={"query": query}).json()["data"]["result"]
        except (httpx.HTTPError, ValueError, KeyError):
            found = []
        if found:
            return found[0]
        time.sleep(0.3)
    raise AssertionError(f"no {query} within {PATIENCE_S} s")


# The dashboard.


def board() -> Any:
    said = CliRunner().invoke(cli, ["metrics", "dashboard"])
    assert said.exit_code == 0
    return json.loads(said.stdout)


def test_the_dashboard_shows_what_the_agents_say(node: Node) -> None:
    expressions = [target["expr"] for panel in board()["panels"] for target in panel["targets"]]
    named = {name for each in expressions for name in re.findall(r"clusterctl_\w+", each)}
    assert named >= {"clusterctl_ready", "clusterctl_restarts_total", "clusterctl_start_phase_seconds"}
    assert named <= {name for name, *_ in samples(metrics.page(lived(node), 12.0))}
    assert any(each.count("vllm:") for each in expressions)
    assert all('cluster=~"$cluster"' in each for each in expressions)


def test_panels_do_not_cover_each_other() -> None:
    panels = board()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (column, row)
        for place in (panel["gridPos"] for panel in panels)
        for column in range(place["x"], place["x"] + place["w"])
        for row in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(column for column, _ in cells) < 24


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Debian's package prometheus has promtool")
def test_prometheus_understands_every_expression(tmp_path: Path) -> None:
    expressions = [target["expr"] for panel in board()["panels"] for target in panel["targets"]]
    rules = [{"record": f"r:{number}", "expr": each} for number, each in enumerate(expressions)]
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    said = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, timeout=60, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    assert f"{len(rules)} rules" in said.stdout.decode()


def test_the_dashboard_is_where_templates_are() -> None:
    assert (templates_dir() / "grafana-dashboard.json").is_file()
