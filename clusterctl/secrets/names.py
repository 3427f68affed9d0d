"""Names of settings that hold secrets: variables, options, keys of JSON. Pure.

One table of words, and a question for each purpose, from the strictest to the most cautious:

- `is_refused`: an inventory may not set it. Only what is a secret beyond doubt.
- `looks_secret`: masked in a plan, reported by `check`. Not a setting that people must read (`max-num-batched-tokens`).
- `may_be_secret`: left out of a bundle, which rather loses a setting than shows a secret.
- `SETTING`: the same in free text (logs, command lines), where a name has no end that could be looked at.

Whatever one of the first two is true of, the next one is too.
"""

from __future__ import annotations

import re

# The words. In capitals, as names are compared.

_PASSWORDS = ("PASSWORD", "PASSWD")
_STRONG = ("SECRET", "PASSW", "PASSPHRASE", "CREDENTIAL")
"""Anywhere in a name."""
_KEYS = ("API", "ACCESS", "PRIVATE", "SECRET")
"""What stands before KEY in names that are secrets beyond doubt."""
_MORE_KEYS = ("ACCOUNT", "SIGNING", "ENCRYPTION")
_TOKENS = ("AUTH", "ACCESS", "REFRESH", "BEARER", "API", "HF", "HUB", "SESSION", "SECURITY")
"""What stands before TOKEN where a name is written in small letters."""


def _any_of(*words: str) -> str:
    return "|".join(words)


WORDS = _any_of("TOKEN", "KEY", *_STRONG)
"""A regular expression, to be used without regard to case: a word that a secret's name has in it."""


SETTING = (
    rf"(?:(?:TOKEN|SECRET|KEY|PASSPHRASE|CREDENTIALS?|{_any_of(*_PASSWORDS)})"
    rf"|(?i:(?:{_any_of(*_KEYS, *_MORE_KEYS)})[_-]?key|(?:{_any_of(*_TOKENS)})[_-]?token"
    rf"|client[_-]?secret|passphrase|{_any_of(*_PASSWORDS)}))"
)
"""A regular expression: the end of a secret's name as logs, command lines and environments write it. Not each name with
"key" or "token" in it: `num_key_value_heads`, `eos_token` and `KeyError` belong to what logs are read for."""


_REFUSED = re.compile(rf"(^|_)(TOKEN|SECRET|({_any_of(*_KEYS)})_KEY)$|({_any_of(*_PASSWORDS)})$")


_LOOKS_SECRET = re.compile(
    rf"{_any_of(*_STRONG)}"
    r"|TOKEN(?!S|IZ|_ID)"  # not MAX_TOKENS, TOKENIZERS_PARALLELISM, pad_token_id
    rf"|(^|_|AUTH|{_any_of(*_KEYS)})KEY(?!_VALUE)S?(_|\d|$)"  # not NCCL_IB_PKEY, num_key_value_heads
)


_PLACE = re.compile(r"(^|_|KEY|CERT)(FILE|PATH|DIR|NAME)S?$")
"""Names of places: RAY_AUTH_TOKEN_PATH holds no token, nor ssl-keyfile a key."""


_MAY_BE_SECRET = re.compile(rf"{_any_of(*_STRONG)}|TOKEN(?!IZE)|KEY")


_SURELY_PLACE = re.compile(r"_(PATH|FILE|DIR)$")


def is_refused(name: str) -> bool:
    """Whether an inventory may not set a variable of this name, because it holds a secret beyond doubt."""
    return bool(_REFUSED.search(name.upper()))


def looks_secret(name: str) -> bool:
    """Whether a variable or option of this name holds a secret, by the words in it."""
    plain = re.sub(r"[-.]", "_", name).upper()
    return bool(_LOOKS_SECRET.search(plain)) and not _PLACE.search(plain)


def may_be_secret(name: str) -> bool:
    """Whether the value of a setting of this name is treated as a secret where nobody needs to read it."""
    plain = name.upper()
    return bool(_MAY_BE_SECRET.search(plain)) and not _SURELY_PLACE.search(plain)
