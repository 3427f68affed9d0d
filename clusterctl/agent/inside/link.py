"""The link between the agents of a gang that has no Ray: one TCP connection a follower, to the head's agent, on the
private network; a JSON object a line.

The head begins with {"challenge": a random word}. The follower says {"hello": its name, "nonce": a word of its own,
"proof"}, and the head, where that is right, {"welcome": its proof}. A proof is made of the cluster's token and of the
words of this one conversation (`proof`): the token itself is never on the network, what was overheard opens nothing,
and a follower takes orders only from who has the token. Then both say {"beat": 1} each second, and a side that hears
nothing for LINK_SILENCE_S calls the other one lost.
The follower says {"state": "standby"}, {"state": "running", "generation": g} or {"state": "ended", "generation": g,
"exit_code", "tail"}; the head {"start": g}, {"serving": g} or {"end": g}. members.py is what they mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .tasks import first_failure

LINK_SILENCE_S = 10.0
"""Seconds without a word after which the other side is lost. A vLLM rank that has lost a peer hangs for minutes, so the
link must be quicker; a machine under full load must still beat in time."""
BEAT_S = 1.0
MAX_LINE_BYTES = 64 * 1024
TAIL_LINES, TAIL_WIDTH = 30, 300
"""Of a rank's last output: as JSON at most 6 bytes a character, so it fits into a line."""


class LinkLostError(Exception):
    """The other side is gone, silent, or speaks something else; says which."""


class HungUpError(LinkLostError):
    """It has closed the connection."""


class Link:
    """One connection, from either side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.peer = str((writer.get_extra_info("peername") or ("unknown",))[0])
        """The other side's address."""

    def say(self, **message: object) -> None:
        """Send one message. What cannot be sent is noticed by who listens."""
        if not self.writer.transport.is_closing():
            self.writer.write(json.dumps(message).encode() + b"\n")

    async def hear(self, timeout_s: float) -> dict[str, Any]:
        """The next message. Raises LinkLostError when none comes, in time or at all."""
        try:
            async with asyncio.timeout(timeout_s):
                line = await self.reader.readuntil()
            message = json.loads(line)
        except TimeoutError:
            raise LinkLostError(f"no sign of life on the link for {timeout_s:g} s") from None
        except (OSError, asyncio.IncompleteReadError) as error:
            amid_a_word = isinstance(error, asyncio.IncompleteReadError) and error.partial
            raise (LinkLostError if amid_a_word else HungUpError)("the link was closed") from None
        except (ValueError, RecursionError, asyncio.LimitOverrunError):
            raise LinkLostError("what came on the link is no message") from None
        if not isinstance(message, dict):
            raise LinkLostError("what came on the link is no message")
        return message

    async def beats(self) -> None:
        """Say that this side lives, until cancelled."""
        while True:
            self.say(beat=1)
            await asyncio.sleep(BEAT_S)

    def close(self) -> None:
        """At once. What was said has been handed to the kernel, unless the other side takes nothing any more."""
        self.writer.transport.abort()


async def talk(link: Link, take: Callable[[Mapping[str, Any]], None]) -> None:
    """Beat, and hand each message to `take`, until the link is lost: LinkLostError."""

    async def listen() -> None:
        while True:
            take(await link.hear(LINK_SILENCE_S))

    await first_failure(link.beats(), listen())


def read_token(path: Path) -> str | None:
    """The cluster's token; None when there is none, and then nobody can be let in."""
    with contextlib.suppress(OSError, ValueError):
        return path.read_text().strip() or None
    return None


def new_word() -> str:
    """A random word, for one conversation."""
    return os.urandom(16).hex()


def proof(token: str, side: str, name: str, challenge: str, nonce: str) -> str:
    """What only who has the token can say, in one conversation and from one side (`head` or `node`) of it."""
    said = json.dumps([side, name, challenge, nonce]).encode()  # ASCII, whatever a stranger's words are
    return hmac.new(token.encode(), said, hashlib.sha256).hexdigest()


def same(given: object, wanted: str) -> bool:
    """Whether the other side's word is the one that was wanted; how long that takes tells nothing of it."""
    return isinstance(given, str) and hmac.compare_digest(_digest(given), _digest(wanted))


def _digest(word: str) -> bytes:
    """Of one length, whatever the word's; JSON can hold halves of characters."""
    return hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()
