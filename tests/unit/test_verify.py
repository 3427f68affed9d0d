"""`verify` without a node: what answers are read as, what a record proves, and what two of them say to each other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterctl.actions.observe import BURST, STREAMED, engine_health, observe
from clusterctl.actions.transport import concluded
from clusterctl.agent.inside.api import ENGINE_HEADER
from clusterctl.errors import ClusterctlError, UsageError
from clusterctl.modes.mode import EnginePlace
from clusterctl.records.difference import Comparison
from clusterctl.records.files import json_text, read_record, ready, to_json, write_new
from clusterctl.records.outputs import Observed, Token, apart
from clusterctl.records.verification import (
    Device,
    EngineHealth,
    KvRoom,
    Machine,
    Shape,
    Software,
    Transport,
    Verification,
    own_noise,
    problems_of,
)
from clusterctl.records.verified import LAYOUT_TOLERANCE, LEAST_TOLERANCE, NOISE_FACTOR, compare, tolerance_of
from clusterctl.signatures import nccl
from clusterctl.status.asking import Asker, NoOutputError, events
from clusterctl.ui import verification as ui
from clusterctl.ui.comparison import comparison_lines
from tests.unit.support import FIXTURES, inventory

ANSWERS = FIXTURES / "answers"
"""Of vLLM 0.32 in the lab, as they were received."""


def recorded(name: str) -> str:
    return (ANSWERS / name).read_text(encoding="utf-8")


class Server:
    """Gives recorded answers; `refuses`: path -> status and body."""

    def __init__(self, refuses: Mapping[str, tuple[int, str]] | None = None) -> None:
        self.refuses = dict(refuses or {})
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.engines: list[str | None] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        body = json.loads(request.content) if request.content else {}
        self.asked.append((path, body))
        self.engines.append(request.headers.get(ENGINE_HEADER))
        if path in self.refuses:
            status, text = self.refuses[path]
            return httpx.Response(status, text=text)
        if path == "/v1/models":
            return httpx.Response(200, text=recorded("models.json"))
        if body.get("stream"):
            return httpx.Response(200, text=recorded("stream.txt"))
        return httpx.Response(200, text=recorded("chat.json" if "messages" in body else "completion.json"))

    def asker(self) -> Asker:
        return Asker(httpx.Client(base_url="http://cluster", transport=httpx.MockTransport(self)), "tiny")


def test_five_outputs_with_their_log_probabilities() -> None:
    server = Server()
    found = list(observe(server.asker()))
    assert [each.name for each in found] == ["greedy", "long prompt", "chat", "streamed", "burst"]
    assert [each.reason for each in found] == [None] * 5
    assert [len(each.answers) for each in found] == [1, 1, 1, STREAMED, BURST]
    assert {len(answer) for each in found for answer in each.answers} == {16}
    assert all(token.id.startswith("token_id:") for each in found for answer in each.answers for token in answer)
    assert all(-20 < token.logprob < 0 for each in found for answer in each.answers for token in answer)
    assert [len(each.first_token_s) for each in found] == [0, 0, 0, STREAMED, 0]
    assert found[4].wall_s is not None
    bodies = [body for path, body in server.asked if path != "/v1/models"]
    assert all(body["temperature"] == 0 and body["model"] == "tiny" for body in bodies)
    assert len({body["cache_salt"] for body in bodies}) == len(bodies)
    assert [body["truncate_prompt_tokens"] for body in bodies if "truncate_prompt_tokens" in body] == [512 - 32]


def test_one_prompt_streamed_or_not_has_one_answer() -> None:
    found = {each.name: each for each in observe(Server().asker())}
    together = apart(found["greedy"].answers[0], found["streamed"].answers[0])
    assert (together.compared, together.parted) == (16, None)
    assert found["greedy"].text == found["streamed"].text


def test_an_engine_is_asked_by_its_rank_only_where_there_are_several() -> None:
    server = Server()
    assert engine_health(server.asker(), EnginePlace(1, ("gpu2",)), ranked=True).reason is None
    assert engine_health(server.asker(), EnginePlace(0, ("gpu1",)), ranked=False).latency_s is not None
    assert server.engines == ["1", None]


def test_a_model_without_a_chat_template_is_no_fault() -> None:
    said = "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template"
    server = Server({"/v1/chat/completions": (400, json.dumps({"error": {"message": said}}))})
    found = list(observe(server.asker()))
    assert [each.name for each in found if each.reason] == ["chat"]
    assert found[2].impossible
    assert problems_of("healthy", (), (), tuple(found)) == ()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((500, "EngineDeadError"), "HTTP 500: EngineDeadError"),
        ((200, "no json"), "no JSON"),
        ((200, "[]"), "no completion"),
        ((200, "{}"), "no completion"),
        ((200, '{"choices": [{"text": "a", "logprobs": null}], "usage": {"prompt_tokens": 3}}'), "0 tokens with"),
        ((200, '{"choices": [{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": []}}]}'), "no completion"),
    ],
    ids=str,
)
def test_an_answer_that_is_none_has_its_reason(answer: tuple[int, str], reason: str) -> None:
    server = Server({"/v1/completions": answer})
    health = engine_health(server.asker(), EnginePlace(0, ("gpu1",)), ranked=False)
    assert health.reason is not None
    assert reason in health.reason
    greedy = next(observe(server.asker()))
    assert greedy.answers == ()
    problems = problems_of("healthy", (), (health,), (greedy,))
    assert len(problems) == 2
    assert problems[0].startswith("engine 0 gave no completion")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('data: {"error": {"message": "dead"}}\n', "ended with an error"),
        ("data: {broken\n", "no JSON"),
        ('data: {"choices": []}\n', "broke off"),
        ("", "broke off"),
    ],
)
def test_a_stream_that_breaks_is_no_output(text: str, reason: str) -> None:
    with pytest.raises(NoOutputError, match=reason):
        list(events(text.splitlines()))


def test_a_connection_that_breaks_has_its_reason() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route", request=request)

    asker = Asker(httpx.Client(base_url="http://cluster", transport=httpx.MockTransport(refuse)), "tiny")
    assert {each.reason for each in observe(asker)} == {"no route"}


def tokens(*logprobs: float, ids: Sequence[int] | None = None, runner_up: float = 0.5) -> tuple[Token, ...]:
    """Each with one other token, that many less likely."""
    names = ids or range(len(logprobs))
    return tuple(
        Token(f"token_id:{name}", logprob, {f"token_id:{name + 1000}": logprob - runner_up})
        for name, logprob in zip(names, logprobs, strict=True)
    )


def test_the_same_tokens_are_apart_by_their_log_probabilities() -> None:
    found = apart(tokens(-1.0, -2.0, -3.0), tokens(-1.0, -2.25, -3.0))
    assert (found.compared, found.greatest, found.parted) == (3, 0.25, None)


def test_behind_the_first_other_token_nothing_is_compared() -> None:
    found = apart(tokens(-1.0, -2.0, -3.0), tokens(-1.0, -2.5, -9.0, ids=[0, 1001, 7]))
    assert found.compared == 1
    assert found.parted is not None
    assert found.parted[:3] == (1, "token_id:1", "token_id:1001")


def test_a_near_tie_is_known_by_what_both_thought_of_the_others_token() -> None:
    old = (Token("a", -1.0, {"b": -1.01}),)
    tie = apart(old, (Token("b", -1.0, {"a": -1.02}),))
    assert tie.parted is not None
    assert tie.parted[3] == pytest.approx(0.02)
    assert tie.greatest == pytest.approx(0.02)
    unknown = apart(old, (Token("c", -1.0, {"a": -1.02}),))
    assert unknown.parted is not None
    assert unknown.parted[3] == float("inf")


answers = st.lists(
    st.builds(
        Token,
        st.sampled_from(["a", "b", "c"]),
        st.floats(-10, 0),
        st.dictionaries(st.sampled_from(["d", "e"]), st.floats(-10, 0), max_size=2),
    ),
    max_size=6,
)


@given(answers, answers)
def test_apart_is_the_same_both_ways_and_nothing_from_itself(one: list[Token], other: list[Token]) -> None:
    forth, back = apart(one, other), apart(other, one)
    assert (forth.compared, forth.greatest) == (back.compared, back.greatest)
    assert (forth.parted is None) == (back.parted is None)
    assert apart(one, one).greatest == 0
    assert apart(one, one).parted is None


SHAPE = Shape("ray", 2, 2, 1, False)
SOFTWARE = Software("0.32.0", "2.60.0", "2.13.0", "5.1.0", "2.28.9", "13.0", "13.0", "3.12.3", "d" * 64)
GREEDY = tuple(-1.0 - place / 10 for place in range(16))


def machine(**changes: Any) -> Machine:
    gpus = (Device(0, "NVIDIA H200", 130_000, 143_771), Device(1, "NVIDIA H200", 130_000, 143_771))
    made = Machine("head", "sha256:abc", "580.159.04", "6.1.0", SOFTWARE, None, gpus, (0,), 0)
    return replace(made, **changes)


def observed(shift: float = 0.0, noise: float = 0.0, ttft: float = 0.05) -> tuple[Observed, ...]:
    """All log-probabilities moved by `shift`; in the burst by `noise` more."""
    answer = tokens(*(logprob + shift for logprob in GREEDY))
    other = tokens(*(logprob + shift + noise for logprob in GREEDY))
    first = (ttft * 0.9, ttft, ttft * 1.1)
    return (
        Observed("greedy", "prompt", 5, "text", (answer,), (0.2,)),
        Observed("long prompt", "long", 480, "text", (answer,), (0.3,)),
        Observed("chat", "chat", 9, "text", (answer,), (0.2,)),
        Observed("streamed", "prompt", 5, "text", (answer,) * 3, (0.2,) * 3, first),
        Observed("burst", "prompt", 5, "text", (other,) * 8, (0.4,) * 8, wall_s=0.5),
    )


def record(**changes: Any) -> Verification:
    made: dict[str, Any] = {
        "made_at": "2026-11-27T04:30:00Z",
        "clusterctl": "0.1.0",
        "cluster": "demo",
        "model": "llama",
        "model_path": "/models/llama",
        "endpoint": "http://10.77.0.11:8000",
        "state": "healthy",
        "drift": (),
        "findings": (),
        "image": "vllm:1",
        "nodes": {"gpu1": machine(), "gpu2": machine(role="worker", stages=(1,))},
        "shape": SHAPE,
        "kv_cache": KvRoom(90_000, None, 100_000, 24.4, 4096),
        "transport": Transport(True, "NCCL between nodes: gpu1: 4 channels via IB", ("IB",)),
        "outputs": observed(),
        "problems": (),
        **changes,
    }
    greedy = made["outputs"][0].answers[0]
    return Verification(engines=(EngineHealth(0, ("gpu1", "gpu2"), 0.2, None, greedy),), **made)


def compared(new: Verification, old: Verification | None = None, **options: Any) -> Comparison:
    return compare(old or record(), new, where="old.json", **options)


def mattering(found: Comparison) -> list[str]:
    return [each.what for each in found.differences if each.matters]


def test_records_survive_a_file(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json_text(to_json("verify", record())), encoding="utf-8")
    assert read_record(path, "verify", Verification) == record()


def test_a_record_is_within_tolerance_of_itself() -> None:
    found = compared(record())
    assert found.within
    assert found.differences == ()
    assert {each.what for each in found.same} >= {"KV cache", "transport", "output `greedy`", "time to first token"}


def test_rounding_is_within_tolerance() -> None:
    assert compared(record(outputs=observed(0.015))).within


def test_other_weights_are_not() -> None:
    found = compared(record(outputs=observed(0.05)))
    assert mattering(found) == [f"output `{name}`" for name in ("greedy", "long prompt", "chat", "streamed", "burst")]
    assert compared(record(outputs=observed(0.05)), tolerance=0.1).within


def test_another_token_that_is_no_near_tie_matters() -> None:
    other = (*tokens(*GREEDY[:3]), *tokens(*GREEDY[3:], ids=range(100, 113)))
    changed = (replace(observed()[0], answers=(other,)), *observed()[1:])
    found = compared(record(outputs=changed))
    assert mattering(found) == ["output `greedy`"]
    assert "no near tie" in found.differences[0].why
    assert "token 4" in found.differences[0].old


def test_a_near_tie_that_falls_otherwise_does_not_matter() -> None:
    old, new = Token("a", -1.0, {"b": -1.01}), Token("b", -1.0, {"a": -1.01})
    first = tokens(*GREEDY[:15])
    before = record(outputs=(replace(observed()[0], answers=((*first, old),)),))
    after = record(outputs=(replace(observed()[0], answers=((*first, new),)),))
    found = compared(after, before)
    assert found.within
    assert any("part at a near tie" in each.how for each in found.same)


def test_the_tolerance_grows_with_the_clusters_own_noise_up_to_a_limit() -> None:
    assert own_noise(record()) == 0
    noisy = record(outputs=observed(noise=0.03))
    assert tolerance_of(record(), noisy) == pytest.approx(0.03 * NOISE_FACTOR)
    assert tolerance_of(record(), record()) == LEAST_TOLERANCE
    other_layout = record(shape=Shape("mp", 4, 1, 1, False))
    assert tolerance_of(record(), other_layout) == tolerance_of(other_layout, record()) == LAYOUT_TOLERANCE
    assert tolerance_of(record(outputs=observed(noise=5)), noisy) == pytest.approx(0.1 * NOISE_FACTOR)


def test_engines_that_disagree_are_a_problem() -> None:
    odd = EngineHealth(1, ("gpu2",), 0.2, None, tokens(*(logprob - 2 for logprob in GREEDY)))
    other = EngineHealth(2, ("gpu3",), 0.2, None, tokens(*GREEDY, ids=range(50, 66), runner_up=3))
    fine = EngineHealth(0, ("gpu1",), 0.2, None, tokens(*GREEDY))
    found = problems_of("healthy", (), (fine, odd, other), observed())
    assert len(found) == 2
    assert found[0].startswith("engine 1 and `greedy` had the same prompt, and their log-probabilities are 2.000 apart")
    assert found[1].startswith("engine 2 and `greedy` had the same prompt, and part at token 1")


def test_what_is_not_as_declared_is_a_problem() -> None:
    found = problems_of("degraded", ("what runs differs from the inventory: node1: restart",), (), observed())
    assert len(found) == 2
    assert "degraded" in found[0]
    assert "node1: restart" in found[1]


def test_a_new_problem_matters_and_an_old_one_does_not() -> None:
    assert mattering(compared(record(problems=("engine 0 gave no completion: x",)))) == ["health"]
    assert compared(record(problems=("a",)), record(problems=("a",))).within


def test_another_layout_is_told_and_its_outputs_are_judged() -> None:
    new = record(shape=Shape("mp", 4, 1, 1, False), kv_cache=KvRoom(None, "why", 50_000, None, None))
    found = compared(new)
    assert found.within
    assert {each.what for each in found.differences} == {"layout", "KV cache"}


def test_less_kv_cache_with_the_same_layout_matters() -> None:
    assert mattering(compared(record(kv_cache=KvRoom(None, "why", 90_000, None, None)))) == ["KV cache"]
    assert compared(record(kv_cache=KvRoom(None, "why", 96_000, None, None))).within
    assert compared(record(kv_cache=KvRoom(None, "why", 200_000, None, None))).within


@pytest.mark.parametrize(
    ("transport", "matters"),
    [
        (Transport(True, "NCCL between nodes: gpu1: 4 channels via Socket", ("Socket",)), True),
        (Transport(False, "not proven"), True),
        (Transport(True, "NCCL between nodes: gpu1: 8 channels via IB", ("IB",)), False),
    ],
    ids=lambda value: str(getattr(value, "said", value)),
)
def test_a_transport_that_got_worse_matters(transport: Transport, matters: bool) -> None:
    assert compared(record(transport=transport)).within is not matters


def test_a_later_first_token_matters_beyond_the_spread() -> None:
    assert compared(record(outputs=observed(ttft=0.06))).within
    assert mattering(compared(record(outputs=observed(ttft=0.2)))) == ["time to first token"]
    assert compared(record(outputs=observed(ttft=0.01))).within


def test_versions_are_told() -> None:
    newer = machine(software=replace(SOFTWARE, vllm="0.33.0", digest="e" * 64), driver="590.1")
    found = compared(record(nodes={"gpu1": newer, "gpu2": machine(role="worker", stages=(1,))}))
    assert found.within
    assert [(each.what, each.old, each.new) for each in found.differences] == [
        ("gpu1: NVIDIA driver", "580.159.04", "590.1"),
        ("gpu1: vllm", "0.32.0", "0.33.0"),
    ]


def test_other_prompts_are_no_comparison() -> None:
    changed = (replace(observed()[0], prompt="another"), *observed()[1:])
    assert mattering(compared(record(outputs=changed))) == ["output `greedy`"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "cannot read"),
        ("", "is no JSON"),
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "is no record of `verify`"),
        ('{"kind": "clusterctl-bench", "version": 1}', "its kind is clusterctl-bench"),
        ('{"kind": "clusterctl-verify", "version": 2}', "of form 2"),
        ('{"kind": "clusterctl-verify", "version": 1}', "no whole record"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_record_ends_with_exit_code_2(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "old.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=reason) as raised:
        read_record(path, "verify", Verification)
    assert raised.value.exit_code == 2
    assert raised.value.hint


def test_a_record_with_a_wrong_value_names_it(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps({**to_json("verify", record()), "nodes": {"gpu1": 1}}), encoding="utf-8")
    with pytest.raises(UsageError, match=r"no whole record: nodes\.gpu1"):
        read_record(path, "verify", Verification)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    ready(tmp_path / "deep" / "er")
    path = tmp_path / "deep" / "er" / "record.json"
    write_new(path, "one")
    with pytest.raises(ClusterctlError, match="already exists"):
        write_new(path, "two")
    assert path.read_text(encoding="utf-8") == "one"
    with pytest.raises(ClusterctlError, match="cannot write"):
        write_new(path / "below", "three")
    with pytest.raises(UsageError, match="cannot make"):
        ready(path / "below")


def test_the_page_has_everything_and_stays_a_table() -> None:
    odd = (replace(observed()[0], text="a | b\n`c` \x1b[31m"), *observed()[1:])
    page = ui.as_page(record(outputs=odd), compared(record(outputs=observed(0.05))))
    for words in (
        "TP=2 x PP=2, executor ray",
        "vLLM 0.32.0",
        "NCCL 2.28.9",
        "driver 580.159.04",
        "90,000 tokens",
        "100,000",
    ):
        assert words in page
    assert "130000/143771 MiB" in page
    assert "\x1b" not in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert all(row.endswith(" |") for row in rows)
    assert "Differs from old" in page


def test_problems_stand_first() -> None:
    lines = ui.as_lines(record(problems=("engine 1 gave no completion: dead",)))
    assert lines[0].startswith("NOT verified")
    assert "engine 1" in lines[1]
    assert ui.as_lines(record())[0].startswith("verified")


def test_the_verdict_names_what_matters() -> None:
    assert "within tolerance" in comparison_lines(compared(record()))[-1]
    words = comparison_lines(compared(record(outputs=observed(0.05))))[-1]
    assert words.startswith("NOT within tolerance of old.json")
    assert "output `greedy`" in words


def captured(name: str) -> nccl.Transport:
    """Lines of two H200 (fixtures/nccl)."""
    return nccl.transport((FIXTURES / "nccl" / f"{name}.log").read_text(encoding="utf-8").splitlines())


def test_channels_between_nodes_are_a_proof() -> None:
    found = concluded(inventory(), SHAPE, {"gpu1": captured("socket-gpu1"), "gpu2": captured("socket-gpu2")}, {})
    assert (found.proven, found.networks) == (True, ("Socket",))
    assert "gpu1: 4 channels via Socket" in found.said


def test_channels_inside_a_node_prove_nothing_about_others() -> None:
    alone = {"nodes": [{"name": "gpu1", "host": "gpu1.example.com"}]}
    assert concluded(inventory(alone), SHAPE, {"gpu1": captured("one-node")}, {}).proven
    assert not concluded(inventory(), SHAPE, {"gpu1": captured("one-node")}, {}).proven


def test_without_lines_nothing_is_proven_and_it_says_how_to_see_them() -> None:
    found = concluded(inventory(), SHAPE, {"gpu1": nccl.transport([])}, {"gpu2": "broken"})
    assert not found.proven
    assert "NCCL_DEBUG: INFO" in found.said
    assert "gpu2" in found.said
    cpu = concluded(inventory({"accelerator": {"kind": "cpu"}}), SHAPE, {"gpu1": nccl.transport([])}, {})
    assert not cpu.proven
    assert "Gloo" in cpu.said


def test_one_rank_exchanges_nothing() -> None:
    alone = {"nodes": [{"name": "gpu1", "host": "gpu1.example.com"}]}
    found = concluded(inventory(alone), Shape("mp", 1, 1, 2, False), {"gpu1": nccl.transport([])}, {})
    assert found.said.startswith("nothing to prove")
