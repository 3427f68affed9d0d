"""No secret survives, wherever it stands and however it is written; what logs are read for stays."""

from __future__ import annotations

import base64
import json
import time
from ipaddress import IPv4Address
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clusterctl.secrets.redact import MASK, Redactor, masked, secret_values
from tests.unit.support import FIXTURES

KEY = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEowIBAAKCAQEAx0fake\n" * 4 + "c2hvcnQ=\n-----END RSA PRIVATE KEY-----"
NOTHING = Redactor([])

visible = st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=["Cs", "Cc", "Zs"])
secrets = st.text(visible, min_size=6, max_size=40).filter(lambda s: MASK not in s and not set(s) <= set("*"))
anything = st.text(max_size=40)


def encoded(secret: str, before: str, after: str) -> list[str]:
    """Texts that hold the secret in some form, with neighbours."""
    return [
        f"{before}{secret}{after}",
        json.dumps({"a": [f"{before}{secret}{after}"]}),
        json.dumps({"a": [f"{before}{secret}{after}"]}, ensure_ascii=False),
        json.dumps(json.dumps({"tail": [secret]})),
        f"{before}{quote(secret, safe='')}{after}",
        f"{before}{quote_plus(secret)}{after}",
        base64.b64encode(secret.encode()).decode(),
        repr([secret]),
    ]


@given(st.lists(secrets, min_size=1, max_size=3), anything, anything)
@example(["abcdef"], "abc", "def")
def test_no_known_secret_survives_in_any_position_and_form(known: list[str], before: str, after: str) -> None:
    redactor = Redactor(known)
    for secret in known:
        for text in encoded(secret, before, after):
            told = redactor.text(text)
            assert secret not in told.replace(MASK, " ")
            assert base64.b64encode(secret.encode()).decode() not in told
            assert quote(secret, safe="") not in told.replace(MASK, " ")


@given(secrets, st.binary(max_size=12), st.binary(max_size=12))
def test_a_secret_inside_something_that_is_base64_is_gone(secret: str, before: bytes, after: bytes) -> None:
    told = Redactor([secret]).text(base64.b64encode(before + secret.encode() + after).decode())
    assert MASK in told
    # What is left is what the neighbours need, and the characters that hold bits of both.
    assert len(told.replace(MASK, "").rstrip("=")) <= (len(before) + len(after)) * 8 / 6 + 4


@given(secrets, st.binary(max_size=20), st.binary(max_size=20))
def test_bytes_that_are_no_text_stay_and_hide_nothing(secret: str, before: bytes, after: bytes) -> None:
    data = before + b" " + secret.encode() + b" " + after
    assert secret.encode() not in Redactor([secret]).data(data).replace(MASK.encode(), b" ")
    assert Redactor(["not there"]).data(b"\xff\xfe \x00 plain") == b"\xff\xfe \x00 plain"


@given(st.lists(secrets, max_size=3), anything)
def test_redacting_twice_changes_nothing_more_that_is_secret(known: list[str], text: str) -> None:
    redactor = Redactor(known)
    told = redactor.text(redactor.text(" ".join([text, *known])))
    assert not any(secret in told.replace(MASK, " ") for secret in known)


def test_a_secret_with_several_lines_is_gone_line_by_line() -> None:
    told = Redactor([KEY]).text("".join(f"(worker) {line}\n" for line in KEY.splitlines()))
    assert "MIIE" not in told


@pytest.mark.parametrize(
    "text",
    [
        "HF_TOKEN=S3cr3t-value-9 HOME=/root",
        "export HF_TOKEN='S3cr3t-value-9'",
        '"HF_TOKEN": "S3cr3t-value-9",',
        "HF_TOKEN: S3cr3t-value-9",
        "Authorization: Bearer S3cr3t-value-9",
        "authorization: basic S3cr3t-value-9",
        "curl -H 'Authorization: Bearer S3cr3t-value-9' http://x",
        "headers={'Authorization': 'Bearer S3cr3t-value-9'}",
        "the client sent bearer S3cr3t-value-9, refused",
        "vllm serve m --api-key S3cr3t-value-9 --port 8000",
        "vllm serve m --api-key=S3cr3t-value-9 --port 8000",
        '["vllm", "serve", "--api-key", "S3cr3t-value-9"]',
        "non-default args: {'model_tag': 'm', 'api_key': ['S3cr3t-value-9', 'S3cr3t-value-9'], 'port': 8000}",
        "args: Namespace(model='m', api_key=['S3cr3t-value-9'], port=8000)",
        "Namespace(api_key='S3cr3t-value-9', port=8000)",
        "GET /v1/models?api_key=S3cr3t-value-9&x=1",
        "aws_secret_access_key = S3cr3t-value-9",
        "client_secret: S3cr3t-value-9",
        "password=S3cr3t-value-9",
        "https://bob:S3cr3t-value-9@pypi.example.com/simple",
        "HTTPS_PROXY=http://bob:S3cr3t-value-9@proxy:3128",
        f"key:\n{KEY}\nend".replace("fake", "S3cr3t-value-9"[:6]),
    ],
)
def test_shapes_that_only_secrets_have(text: str) -> None:
    told = NOTHING.text(text)
    assert "S3cr3t" not in told
    assert MASK in told


@pytest.mark.parametrize(
    "secret",
    [
        "hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345",
        "hf_" + "abcdefgh" * 4,
        "sk-proj-abcDEF0123456789abcDEF",
        "sk-local-1234567",
        "nvapi-abcdefghijklmnop",
        "ghp_abcdefghijklmnopqrst",
        "AKIAIOSFODNN7EXAMPLE",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc_def-ghi",
    ],
)
def test_what_is_a_secret_wherever_it_stands(secret: str) -> None:
    assert NOTHING.text(f"a {secret} b") == f"a {MASK} b"
    assert secret not in NOTHING.text(f'x="{secret}"')


def test_private_keys_that_were_cut() -> None:
    half = KEY[: len(KEY) // 2]
    assert "MIIE" not in NOTHING.text(f"{half}\nINFO 11-21 12:10:40 [x.py:1] going on")
    assert "going on" in NOTHING.text(f"{half}\nINFO 11-21 12:10:40 [x.py:1] going on")
    assert "MIIE" not in NOTHING.text(KEY[40:] + "\nnext line")
    assert NOTHING.text(KEY[40:] + "\nnext line").endswith("next line")
    assert "MIIE" not in NOTHING.text(json.dumps({"key": KEY}))


@pytest.mark.parametrize(
    "line",
    [
        "Maximum concurrency for 8,192 tokens per request: 488.28x",
        "GPU KV cache size: 4,066,320 tokens",
        "KeyError: 'model.embed_tokens.weight'",
        "num_key_value_heads=8, max_num_batched_tokens=2048, eos_token_id=2, pad_token='<pad>'",
        "Using hf_overrides={} hf_config_path=None hf_token=None, hf_text_config",
        "api_key=None, 'api_key': None, \"password\": null",
        "RuntimeError: Token authentication is enabled but the token differs",
        "disk-full task-runner sk-learn ask-me",
        "Bearer token authentication is on",
        "RAY_AUTH_TOKEN_PATH=/etc/clusterctl/ray-token",
        "http://10.77.0.11:8000/v1/models tcp://10.0.0.1:29500 user@host:/path",
        "2026-11-21T12:10:40.123456789Z (EngineCore pid=232) INFO 11-21 12:10:40 [core.py:1] token: 5",
        "TOKENIZERS_PARALLELISM=false",
        "-----BEGIN CERTIFICATE-----",
    ],
)
def test_what_logs_are_read_for_stays(line: str) -> None:
    assert NOTHING.text(line) == line


@pytest.mark.parametrize("name", ["vllm-0.32-healthy", "vllm-0.32-no-python-headers"])
def test_captured_logs_stay_as_they_are(name: str) -> None:
    text = (FIXTURES / "logs" / f"{name}.log").read_text(encoding="utf-8")
    assert NOTHING.text(text) == text


def test_a_short_secret_is_hidden_behind_its_name_only() -> None:
    redactor = Redactor(["abc", "1"])
    assert redactor.text("HF_TOKEN=abc abc 1 abcd my_key: 'abc' --api-key 1") == (
        f"HF_TOKEN={MASK} abc 1 abcd my_key: '{MASK}' --api-key {MASK}"
    )


def test_a_long_line_without_a_blank_takes_no_time() -> None:
    redactor = Redactor(["abc", "a-longer-secret"])
    for part in ("x", "ab1", "key", "KEY=", "token_", "://", "sk-a", "eyJ", "-----BEGIN PRIVATE KEY-----"):
        began = time.process_time()
        redactor.text(part * (100_000 // len(part)))
        assert time.process_time() - began < 2, part


def test_values_that_are_none_are_no_secrets() -> None:
    assert Redactor(["", "  ", "***", "******"]).text("a *** b ****** c") == "a *** b ****** c"


INSPECTED = {
    "Config": {"Env": ["HF_TOKEN=hidden-1", "HOME=/root", "RAY_AUTH_TOKEN_PATH=/etc/t"], "Labels": {"key": "hidden-2"}},
    "spec": {"environment": {"PASSWORD": "hidden-3", "A": "b"}, "tokens": 5},
}


def test_trees_lose_their_secrets_and_give_them_by_value() -> None:
    assert list(secret_values(INSPECTED)) == ["hidden-1", "hidden-2", "hidden-3"]
    shown = masked(INSPECTED)
    assert shown["Config"]["Env"] == [f"HF_TOKEN={MASK}", "HOME=/root", "RAY_AUTH_TOKEN_PATH=/etc/t"]
    assert shown["spec"] == {"environment": {"PASSWORD": MASK, "A": "b"}, "tokens": 5}
    assert "hidden" not in NOTHING.json(INSPECTED)


def texts(tree: object) -> list[str]:
    if isinstance(tree, dict):
        return [*tree, *(text for item in tree.values() for text in texts(item))]
    if isinstance(tree, list):
        return [text for item in tree for text in texts(item)]
    return [tree] if isinstance(tree, str) else []


trees = st.recursive(st.text(max_size=30) | st.integers() | st.none(), lambda t: st.lists(t, max_size=4) | st.dictionaries(st.text(max_size=8), t, max_size=4), max_leaves=8)  # fmt: skip # noqa: E501


@given(trees, secrets)
@example(['"api_key": "\\"', "'api_key': ['\" + x"], "abcdef")
def test_json_stays_json_and_has_no_secret(tree: object, secret: str) -> None:
    told = Redactor([secret]).json({"a": [tree, f"x {secret}", {secret: secret}], "argv": ["--api-key", "S3cr3t"]})
    assert not [text for text in texts(json.loads(told)) if secret in text.replace(MASK, " ")]
    assert "S3cr3t" not in told


def test_a_redactor_does_not_tell() -> None:
    assert "hidden" not in repr(Redactor(["hidden-value"]))


def test_keys_that_are_no_texts_become_texts() -> None:
    told = json.loads(Redactor(()).json({"answers": {IPv4Address("10.77.0.12"): ({3: "eth1"},)}}))
    assert told == {"answers": {"10.77.0.12": [{"3": "eth1"}]}}
