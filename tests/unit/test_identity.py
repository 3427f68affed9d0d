"""The table of what differs, and what the inventory waives."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from clusterctl.deployment.resolve import resolve
from clusterctl.errors import ExitCode
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.finding import has_errors
from clusterctl.findings.identity import Difference, differences
from clusterctl.findings.rules import check, codes, never_waived
from clusterctl.status.status import cluster_status, exit_code_of
from clusterctl.ui import render
from tests.unit.reports import deep_facts
from tests.unit.support import cluster_facts, inventory

THREE: dict[str, Any] = {"nodes": [{"name": f"gpu{i}", "host": f"h{i}"} for i in (1, 2, 3)]}


def facts(images: dict[str, Any] | None = None, nodes: dict[str, Any] | None = None) -> ClusterFacts:
    return replace(cluster_facts({"gpu3": {}, **(nodes or {})}), deep=None if images is None else deep_facts(images))


def table(images: dict[str, Any] | None = None, nodes: dict[str, Any] | None = None) -> dict[str, Difference]:
    return {row.title: row for row in differences(inventory(THREE), facts(images, nodes))}


def test_nodes_that_are_alike_have_no_table() -> None:
    assert table() == {}
    assert table({"gpu1": {}, "gpu2": {}, "gpu3": {}}) == {}


def test_only_what_differs_is_shown_cell_by_cell() -> None:
    found = table({"gpu1": {}, "gpu2": {"ray": "2.59.0", "glibc": "2.36"}, "gpu3": {"unknown": "it hung"}})
    assert {title: dict(row.cells) for title, row in found.items()} == {
        "Ray": {"gpu1": "2.60.0", "gpu2": "2.59.0", "gpu3": "?"},
        "glibc in the image": {"gpu1": "2.39", "gpu2": "2.36", "gpu3": "?"},
    }
    assert (found["Ray"].rating, found["Ray"].code) == ("fails", "ray-differs")
    assert (found["glibc in the image"].rating, found["glibc in the image"].code) == ("harmless", None)
    text = render.identity(list(found.values()))
    assert all(word in text for word in ("2.59.0", "fails", "gpu3"))


def test_what_differs_without_asking_the_image() -> None:
    found = table(nodes={"gpu2": {"image": "other", "kernel": "6.2.0"}})
    assert {row.title: str(row.rating) for row in found.values()} == {"image": "fails", "kernel": "harmless"}


def test_every_code_of_the_table_is_one() -> None:
    told = {"mtu-differs", "image-differs", "gpus-differ", "ray-differs", "vllm-differs", "nccl-differs"}
    assert told <= codes().keys()


def test_a_waived_finding_is_shown_and_stops_nothing() -> None:
    asked = inventory({**THREE, "waive": ["ray-differs"]})
    seen = facts({"gpu1": {}, "gpu2": {"ray": "2.59.0"}, "gpu3": {}})
    (finding,) = check(asked, seen)
    assert (finding.code, str(finding.severity), finding.waived) == ("ray-differs", "error", True)
    assert finding.lines()[0].startswith("waived error [ray-differs] gpu2: Ray:")
    assert finding.to_json()["waived"] is True
    assert not has_errors([finding])
    (row,) = differences(asked, seen)
    assert row.waived
    assert "waived (fails)" in render.identity([row])
    assert "1 finding, 1 of them waived" in render.findings([finding], 3)


def test_the_status_shows_what_is_waived_and_still_plans() -> None:
    asked = inventory({"waive": ["port-taken"]})
    seen = cluster_facts({"gpu1": {"listeners": {"8000": "nginx (pid 77)"}}})
    status = cluster_status(asked, seen, None, None)
    assert [finding.waived for finding in status.findings] == [True]
    assert status.tensor_parallel == 2
    assert exit_code_of(status) == ExitCode.DOWN


@pytest.mark.parametrize(
    "changes",
    [
        {"gpu2": {"model": None}},
        {"gpu2": {"listeners": {"6380": None}}},
        {"gpu2": {"containers": ["demo-node", "demo-old"]}},
        {"gpu2": {"image": "other"}},
    ],
)
def test_a_plan_can_be_made_whatever_is_waived(changes: dict[str, Any]) -> None:
    seen = cluster_facts(changes)
    found = {finding.code for finding in check(inventory(), seen) if finding.code not in never_waived()}
    assert found
    asked = inventory({"waive": sorted(found)})
    assert not has_errors(check(asked, seen))
    assert resolve(asked, seen).places


def test_the_table_is_json() -> None:
    (row,) = differences(inventory(THREE), facts(nodes={"gpu2": {"kernel": "6.2.0"}}))
    assert json.loads(json.dumps(row.to_json()))["cells"] == {"gpu1": "6.1.0", "gpu2": "6.2.0", "gpu3": "6.1.0"}
