"""Names of settings that hold secrets: variables, options, keys of JSON. Pure.

Two questions, for two purposes. What is masked in a plan or refused in an inventory must not be a setting that people
need to read (`max-num-batched-tokens`): `looks_secret`. What leaves the operator's hands in a bundle may rather lose a
setting than show a secret: `may_be_secret`, which is true of every name of which `looks_secret` is.
"""

from __future__ import annotations

import re

_PLACE = re.compile(r"(^|_|KEY|CERT)(FILE|PATH|DIR|NAME)S?$")
"""Names of places: RAY_AUTH_TOKEN_PATH holds no token, nor ssl-keyfile a key."""


_SURELY_PLACE = re.compile(r"_(PATH|FILE|DIR)$")


_STRONG = "SECRET|PASSW|PASSPHRASE|CREDENTIAL"


_SECRET = re.compile(
    rf"{_STRONG}"
    r"|TOKEN(?!S|IZ|_ID)"  # not MAX_TOKENS, TOKENIZERS_PARALLELISM, pad_token_id
    r"|(^|_|API|AUTH|ACCESS|PRIVATE)KEY(?!_VALUE)S?(_|\d|$)"  # not NCCL_IB_PKEY, num_key_value_heads
)


_PERHAPS = re.compile(rf"{_STRONG}|TOKEN(?!IZE)|KEY")


def looks_secret(name: str) -> bool:
    """Whether a variable or option of this name holds a secret, by the words in it."""
    plain = re.sub(r"[-.]", "_", name).upper()
    return bool(_SECRET.search(plain)) and not _PLACE.search(plain)


def may_be_secret(name: str) -> bool:
    """Whether the value of a setting of this name is to be taken for a secret where nobody needs to read it."""
    plain = name.upper()
    return bool(_PERHAPS.search(plain)) and not _SURELY_PLACE.search(plain)
