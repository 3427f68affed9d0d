"""`report`: what the page shows, and what it must not."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from clusterctl.actions.report import Collected, Records, find_records, starts_of
from clusterctl.diagnosis.collect import own_secrets
from clusterctl.errors import UsageError
from clusterctl.facts.fact import Unknown
from clusterctl.findings.rules import check
from clusterctl.layout.report import report as layout_report
from clusterctl.lock.history import Note, Restart, Run, history
from clusterctl.records.files import json_text, to_json
from clusterctl.secrets.redact import Redactor
from clusterctl.status.status import cluster_status
from clusterctl.ui.report import as_html
from tests.unit import test_bench, test_verify
from tests.unit.support import cluster_facts, container, inventory, with_containers

AT = datetime(2026, 11, 27, 6, 0, tzinfo=UTC)
SECRET = "s3cr3t<&>value"
PHASES = {"gate": 12.5, "loading": 40.25}
RUN = Run("r1", 1.0, "ann@desk", "up", "0.1", "ok", 61.0, (Note(1.0, "started <gpu1>"),), ("gpu1",), {})
RESTART = Restart(2.0, "gpu1", "gang", "node-lost", "gpu2 has left")


def collected(**changes: Any) -> Collected:
    of = inventory({"container": {"env": {"HF_TOKEN": SECRET}}})
    state = {"phase": "serving", "role": "head", "ready": True, "start_phases": PHASES}
    facts = with_containers(cluster_facts(), {"gpu1": (container(state=state),)})
    found = Collected(
        made_at=AT,
        inventory=of,
        status=cluster_status(of, facts, None, None),
        findings=tuple(check(of, facts)),
        layout=layout_report(of, facts),
        history=replace(history(of.cluster, {}, {}, limit=9), entries=(RUN, RESTART)),
        starts=starts_of(facts),
        records=Records(test_verify.record(), test_bench.record()),
        redactor=Redactor(own_secrets(of)),
    )
    return replace(found, **changes)


def test_everything_is_on_the_page() -> None:
    page = unescape(as_html(collected()))
    for text in ("gate 12.5 s, loading 40.2 s", "ann@desk", "started <gpu1>", "node-lost", "gpu2 has left"):
        assert text in page, text
    assert "a node has left Ray, and the server has lost its ranks" in page, "what the reason means"
    for heading in ("Status", "Findings", "Layout", "Inventory", "Verified", "Outputs"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("<svg") == 3 * len(test_bench.record().traffics)
    assert "network:\n  cidr: 10.77.0.0/24" in page
    assert not re.search(r"(src|href)=|https?://(?!\d)|@import|url\(", page), "nothing from outside"


def test_bars_have_one_scale() -> None:
    page = as_html(collected(starts={"gpu1": {"gate": 10.0, "loading": 30.0}, "gpu2": {"gate": 20.0}}))
    assert re.findall(r'style="width: ([\d.]+)%', page) == ["25.00", "75.00", "50.00"]


def test_what_is_missing_is_said() -> None:
    none = history("demo", {}, {}, limit=9)
    page = as_html(collected(history=none, starts={}, findings=(), records=Records(), layout=Unknown("no model")))
    for text in (
        "No run is recorded.",
        "Nothing was restarted.",
        "No agent that runs",
        "no model",
        "Nothing was found",
    ):
        assert text in page, text
    assert "<svg" not in page


def test_no_secret_is_on_the_page_in_any_form() -> None:
    said = f"curl -H 'Authorization: Bearer {SECRET}' failed"
    run = replace(RUN, outcome=f"failed: {said}", notes=(Note(1.0, json.dumps(said)),))
    entries = (run, replace(RESTART, detail=f"HF_TOKEN={SECRET} and hf_abcdefgh12345678"))
    found = collected()
    page = as_html(replace(found, history=replace(found.history, entries=entries), layout=Unknown(SECRET)))
    assert "s3cr3t" not in page
    assert base64.b64encode(SECRET.encode()).decode().rstrip("=") not in page
    assert "abcdefgh12345678" not in page
    assert "HF_TOKEN: &#39;***&#39;" in page
    without = as_html(replace(found, redactor=Redactor(()), layout=Unknown(SECRET)))
    assert "s3cr3t" in without, "it is the redactor that takes it out"


def test_what_nodes_and_models_say_is_no_html() -> None:
    page = as_html(collected(layout=Unknown("<script>alert(1)</script>")))
    assert "<script" not in page


def test_the_latest_record_of_this_cluster_is_found(tmp_path: Path) -> None:
    record = replace(test_bench.record(), cluster="demo")
    for name, model in (("20260101T000000Z", "old"), ("20260201T000000Z", "new")):
        (tmp_path / f"demo-bench-{name}.json").write_text(json_text(to_json("bench", replace(record, model=model))))
    (tmp_path / "demo-verify-20260101T000000Z.json").write_text("{}")
    found = find_records("demo", tmp_path, None, None)
    assert found.benchmark is not None
    assert found.benchmark.model == "new"
    assert found.verification is None
    assert len(found.notes) == 1, "a damaged one that was only found is noted"
    assert find_records("other", tmp_path, None, None) == Records()


def test_a_record_that_is_given_must_be_one_of_this_cluster(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    file.write_text(json_text(to_json("bench", replace(test_bench.record(), cluster="a"))))
    assert find_records("a", tmp_path, None, file).benchmark is not None
    with pytest.raises(UsageError, match="a record of cluster a, not of b"):
        find_records("b", tmp_path, None, file)
    with pytest.raises(UsageError, match="cannot read"):
        find_records("a", tmp_path, tmp_path / "absent.json", None)
