"""Which names say that a value is secret: surely, and perhaps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterctl.secrets.names import is_refused, looks_secret, may_be_secret

SECRETS = """HF_TOKEN hf-token MY_SECRET_2 db_password PGPASSFILE_PASSWD AWS_ACCESS_KEY_ID WANDB_APIKEY LICENSE_KEY
SIGNING_KEYS SSH_PASSPHRASE DB_CREDENTIALS KEY AUTHTOKEN DEPLOY_KEY_1"""
OTHERS = """TOKENIZERS_PARALLELISM max-num-batched-tokens tokenizer-mode NCCL_IB_PKEY RAY_AUTH_TOKEN_PATH ssl-keyfile
ssl-certfile api_key_file num_key_value_heads pad_token_id MONKEY NCCL_DEBUG"""


@pytest.mark.parametrize("name", SECRETS.split())
def test_names_of_secrets(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize("name", OTHERS.split())
def test_names_of_other_things(name: str) -> None:
    assert not looks_secret(name)


@pytest.mark.parametrize("name", ["signing_key_hex", "NCCL_IB_PKEY", "key", "auth_key_name", *SECRETS.split()])
def test_a_bundle_hides_more(name: str) -> None:
    assert may_be_secret(name)


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN_PATH", "TOKENIZERS_PARALLELISM", "tokenizer", "HOME", "NCCL_DEBUG"])
def test_and_leaves_what_surely_is_none(name: str) -> None:
    assert not may_be_secret(name)


WORDS = ["API", "KEY", "TOKEN", "TOKENS", "SECRET", "PASSWD", "FILE", "PATH", "NAME", "_", "-", "ID", "NUM", "x"]


@given(st.lists(st.sampled_from(WORDS), max_size=6).map("".join))
def test_a_bundle_hides_whatever_a_plan_hides(name: str) -> None:
    assert may_be_secret(name) or not looks_secret(name)


@given(st.lists(st.sampled_from(WORDS), max_size=6).map("".join))
def test_a_plan_hides_whatever_an_inventory_may_not_set(name: str) -> None:
    assert looks_secret(name) or not is_refused(name)
