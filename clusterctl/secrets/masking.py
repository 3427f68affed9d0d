"""Values that are secrets, recognised by their name: recorded as a hash, never shown. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from clusterctl.secrets.names import looks_secret

SECRETS_IN_USE = frozenset(
    {
        "VLLM_API_KEY",
        "RAY_AUTH_TOKEN",
        "HF_TOKEN",
        "HF_HUB_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "OPENAI_API_KEY",
        "EXA_API_KEY",
        "WANDB_API_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AZURE_CLIENT_SECRET",
    }
)
"""Secrets that vLLM 0.32 and what it loads models and tools with take from the environment; an image may set them."""


HASHED = "(secret) sha256:"


SHOWN = "(secret)"


class Hidden(str):
    """What stands where a secret was: it reads `(secret)` in text and JSON, and equals only the same secret."""

    __slots__ = ("_hash",)
    _hash: str

    def __new__(cls, value: object) -> Hidden:
        """From the secret itself, or from what `recorded` made of it."""
        hidden = super().__new__(cls, SHOWN)
        hidden._hash = _hashed(value)
        return hidden

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hidden) and self._hash == other._hash

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self._hash)


def recorded(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The body that a container is created with, as it is hashed and written into its record.

    Another secret is another container, and the secret is in neither. A short one could be guessed from its hash; but
    who can read the record can also `docker inspect` the environment itself.
    """
    environment = {
        name: _hashed(value) if looks_secret(name) else value for name, value in config["environment"].items()
    }
    return {**config, "environment": environment}


def masked(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Nested values as they may be shown: what stands under a name that looks like a secret's is Hidden.

    Records of older versions, which hold values in the clear, are masked alike, and compare equal to newer ones.
    """
    return {
        name: masked(value)
        if isinstance(value, Mapping)
        else Hidden(value)
        if value is not None and looks_secret(str(name))
        else value
        for name, value in values.items()
    }


def _hashed(value: object) -> str:
    """The value's hash; what is one already stays as it is."""
    text = str(value)
    return text if text.startswith(HASHED) else HASHED + hashlib.sha256(text.encode()).hexdigest()
