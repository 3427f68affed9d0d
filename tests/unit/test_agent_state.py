"""An agent's report, whatever is missing from it or damaged."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from clusterctl.agent.state import AgentState, agent_state

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
KEYS = st.sampled_from(
    ["phase", "since", "server", "nodes", "workers", "kept", "canary", "restarts", "restarts_total", "cache"]
)


def test_a_report_is_read() -> None:
    report = {
        "phase": "draining",
        "since": 12.5,
        "server": 3,
        "ready": True,
        "action": "drain",
        "by": "ann@desk",
        "canary": {"t": 11, "latency_s": 0.2},
        "restarts": [{"t": 1.0, "scope": "server", "reason": "server-hangs", "detail": "no token for 20 s"}],
        "restarts_total": 7,
        "workers": {"vllm_Worker_1_PP0": "10.0.0.1"},
    }
    found = agent_state(report)
    assert (found.phase, found.since, found.server, found.ready, found.by) == ("draining", 12.5, 3, True, "ann@desk")
    assert (found.ending, found.serving, found.has_server, found.canary_t) == (True, False, True, 11.0)
    assert found.last_restart is not None
    assert (found.last_restart.reason, found.restarts_total) == ("server-hangs", 7)
    assert found.workers == {"vllm_Worker_1_PP0": "10.0.0.1"}


def test_without_a_report_nothing_is_known() -> None:
    assert agent_state(None) == agent_state("text") == agent_state({}) == AgentState()


@given(st.dictionaries(KEYS, JSON))
def test_no_report_is_too_damaged_to_be_read(report: dict[str, object]) -> None:
    agent_state(report)
    agent_state(json.loads(json.dumps(report)))
