"""A gang without Ray, over nodes: the gate `members` on its head and the gate `member` on every other node.

vLLM's world of ranks cannot be joined again, and a rank that has lost a peer may hang for ever with exit code 0 to come
(gpu-facts): so the end of any rank is the end of them all. The head decides: when exactly the declared nodes stand by,
it starts a new generation, its number is that of the head's server; when its own server ends, it ends the generation.
A follower never outlives the link to its head.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .link import (
    LINK_SILENCE_S,
    MAX_LINE_BYTES,
    TAIL_LINES,
    TAIL_WIDTH,
    HungUpError,
    Link,
    LinkLostError,
    new_word,
    proof,
    read_token,
    same,
    talk,
)
from .node import Node
from .tasks import Changes, GiveUpError, StoodDownError

HELLO_S = 5.0
"""Seconds for a stranger to say who it is."""
MAX_STRANGERS = 64
"""Connections that have not said it yet; when there are more, the oldest goes. A follower says it at once."""
MAX_REFUSALS = 100
"""Refusals that are written down: one for each address and reason."""
NAME_WIDTH = 64
CONNECT_S = 5.0
RETRY_S = 1.0
"""Seconds between a follower's tries to reach its head, and between a head's to listen."""
CHECK_S = 1.0
"""Seconds between a follower's looks at how long it has gone well."""


# The head's side.


class RefusedError(Exception):
    """The other side has not proved that it belongs to the cluster; says why."""


class Peer:
    """A follower that is on the link."""

    def __init__(self, name: str, link: Link) -> None:
        self.name = name
        self.link = link
        self.standby = False
        self.fate: GiveUpError | None = None
        """Why the generation that it is part of cannot go on."""

    def lost(self, why: str) -> None:
        """Its link is no more."""
        self.standby = False
        self.fate = self.fate or GiveUpError("member-lost", f"{self.name}: {why}", node=self.name)

    def ended(self, message: Mapping[str, Any]) -> None:
        """Its rank is no more."""
        code, tail = message.get("exit_code"), message.get("tail")
        lines = [str(line)[:TAIL_WIDTH] for line in tail[-TAIL_LINES:]] if isinstance(tail, list) else []
        how = f" with exit code {code}" if isinstance(code, int) else ""
        fields = {"node": self.name, "exit_code": code if isinstance(code, int) else None, "tail": lines}
        self.fate = self.fate or GiveUpError("rank-exited", f"{self.name}: its rank ended{how}", **fields)


class Members:
    """The gate `members`: exactly the declared followers are on the link, each in standby.

    {"address", "port": to listen on, "token_file", "expected": name → address of the followers}
    """

    def __init__(self, node: Node, spec: Mapping[str, Any]) -> None:
        self.node = node
        self.where = (str(spec["address"]), int(spec["port"]))
        self.token_file = Path(spec["token_file"])
        self.expected: Mapping[str, str] = spec["expected"]
        self.changes = Changes()
        self.listening: asyncio.Server | None = None
        self.closed_port = "the link is not open yet"
        self.strangers: dict[Link, asyncio.Task[None]] = {}
        self.links: set[asyncio.Task[None]] = set()
        self.refused: set[tuple[str, str]] = set()
        """Address and reason of refusals that were written down."""
        self.turned_away: dict[str, str] = {}
        """A follower's address → why the last connection from there was refused."""
        self.peers: dict[str, Peer] = {}
        self.gang: dict[str, Peer] = {}
        """Who was told to start the generation that runs."""
        self.generation = 0

    async def watch(self) -> None:
        """Listen for followers. After a machine's start its address may take a while to be there."""
        address, port = self.where
        while self.listening is None:
            try:
                self.listening = await asyncio.start_server(self._connected, address, port, limit=MAX_LINE_BYTES)
            except OSError as error:
                self.closed_port = (
                    f"cannot listen on {address}:{port}: {os.strerror(error.errno) if error.errno else error}"
                )
                if not self.node.heals():
                    raise GiveUpError("link-port", self.closed_port) from error
                self.changes.note()
                await asyncio.sleep(RETRY_S)
        self._count()

    async def end(self) -> None:
        """Nobody is on the link any more."""
        if self.listening is not None:
            self.listening.close()
        for link in (*self.strangers, *(peer.link for peer in self.peers.values())):
            link.close()
        for task in self.links:
            task.cancel()
        await asyncio.gather(*self.links, return_exceptions=True)

    # Who comes, and who goes.

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(reader, writer)
        while len(self.strangers) >= MAX_STRANGERS:
            oldest = next(iter(self.strangers))
            self.strangers.pop(oldest).cancel()
            oldest.close()
        self.strangers[link] = task = asyncio.create_task(self._let_in(link))
        self.links.add(task)
        task.add_done_callback(self.links.discard)

    async def _let_in(self, link: Link) -> None:
        """One connection, from its first word to its end."""
        try:
            name = await self._greeted(link)
        except RefusedError as error:
            self._note_refusal(link.peer, str(error))
        except HungUpError:
            pass  # a look at whether the port is open, as `check` takes one
        else:
            await self._belong(Peer(name, link))
        finally:
            self.strangers.pop(link, None)
            link.close()

    async def _greeted(self, link: Link) -> str:
        """The name of a follower that has proved that it has the token. Raises RefusedError, or HungUpError."""
        challenge = new_word()
        link.say(challenge=challenge)
        try:
            hello = await link.hear(HELLO_S)
        except HungUpError:
            raise
        except LinkLostError as error:
            raise RefusedError(f"no greeting: {error}") from error
        name, nonce, token = str(hello.get("hello")), str(hello.get("nonce")), read_token(self.token_file)
        if token is None or not same(hello.get("proof"), proof(token, "node", name, challenge, nonce)):
            raise RefusedError("it does not know the token")
        if name not in self.expected:
            raise RefusedError(f"{name[:NAME_WIDTH]} is no node of this cluster")
        link.say(welcome=proof(token, "head", name, challenge, nonce))
        return name

    def _note_refusal(self, address: str, why: str) -> None:
        if address in self.expected.values():
            self.turned_away[address] = why
            self.changes.note()
        if (address, why) not in self.refused and len(self.refused) < MAX_REFUSALS:
            self.refused.add((address, why))
            self.node.journal.event("link-refused", address=address, why=why)

    async def _belong(self, peer: Peer) -> None:
        """A follower's time on the link. The newest connection of a name is the one that counts."""
        self.strangers.pop(peer.link, None)
        before = self.peers.get(peer.name)
        self.peers[peer.name] = peer
        self.turned_away.pop(self.expected[peer.name], None)
        if before is not None:
            before.lost(f"a newer connection has come, from {peer.link.peer}")
            before.link.close()
        self._count()
        try:
            await talk(peer.link, lambda message: self._heard(peer, message))
        except LinkLostError as error:
            peer.lost(str(error))
        finally:
            if self.peers.get(peer.name) is peer:
                del self.peers[peer.name]
                self._count()

    def _heard(self, peer: Peer, message: Mapping[str, Any]) -> None:
        state = message.get("state")
        if state is None:
            return  # a beat
        peer.standby = state == "standby"
        # Without a number: what stood by has ended, while the word to start it was on its way.
        if state == "ended" and message.get("generation") in (None, self.generation) and peer.name in self.gang:
            peer.ended(message)
        self.changes.note()

    def _count(self) -> None:
        """Say who is there: the head itself, and who is on the link."""
        journal, head = self.node.journal, self.where[0]
        nodes = {head: 1, **{self.expected[name]: 1 for name in self.expected if name in self.peers}}
        if self.listening is not None and nodes != journal.state.get("nodes"):
            journal.state["nodes"] = nodes
            journal.event("nodes", joined=sorted(nodes), expected=1 + len(self.expected))
        self.changes.note()

    # The gate.

    async def opened(self) -> None:
        """Wait until every follower stands by; then start the next generation."""
        node = self.node
        node.journal.phase("gate")
        timeout_s = node.gate_timeout_s("members-missing")
        problem: str | None = None
        try:
            async with asyncio.timeout(timeout_s):
                while problem := self._problem():
                    node.waits_for(problem)
                    await self.changes.next()
                node.waits_for(None)
        except TimeoutError as error:
            missing = self._missing()
            raise GiveUpError("members-missing", f"after {timeout_s:g} s {problem}", missing=missing) from error
        self.generation = node.journal.state["generation"] = node.journal.state["server"]
        self.gang = dict(self.peers)
        for peer in self.gang.values():
            peer.standby, peer.fate = False, None
        self._tell("start")

    def _missing(self) -> list[str]:
        return [name for name in self.expected if name not in self.peers]

    def _problem(self) -> str | None:
        """Why the server cannot start yet."""
        if self.listening is None:
            return self.closed_port
        if read_token(self.token_file) is None:
            return f"no token in {self.token_file}"
        if missing := self._missing():
            here, all_nodes = 1 + len(self.peers), 1 + len(self.expected)
            return f"only {here} of {all_nodes} nodes are on the link; missing: {', '.join(map(self._absent, missing))}"
        busy = [name for name, peer in self.peers.items() if not peer.standby]
        return f"on the link and not in standby: {', '.join(sorted(busy))}" if busy else None

    def _absent(self, name: str) -> str:
        """A follower that is missing, and what is known of it."""
        why = self.turned_away.get(self.expected[name])
        return f"{name} (refused: {why})" if why else name

    def serving(self) -> None:
        """The followers are told, so that they can say of themselves that they have loaded."""
        self._tell("serving")

    async def stays(self) -> None:
        """Fail as soon as a rank of this generation ends, or its node's agent is lost. What is heard first is the
        cause: the head's own server ends later than the rank that it needs, if at all."""
        while True:
            for peer in self.gang.values():
                if peer.fate is not None:
                    raise peer.fate
            await self.changes.next()

    def closed(self, error: GiveUpError | None) -> None:
        """End the generation everywhere."""
        self._tell("end", why=error.reason if error is not None else None)
        self.gang = {}

    def _tell(self, word: str, **more: object) -> None:
        for peer in self.gang.values():
            peer.link.say(**{word: self.generation, **more})


# A follower's side.


class Member:
    """The gate `member`: the head says that this node's rank is to start.

    {"name": this node's, "address", "port": of the head's agent, "token_file"}
    """

    def __init__(self, node: Node, spec: Mapping[str, Any]) -> None:
        self.node = node
        self.name: str = spec["name"]
        self.where = (str(spec["address"]), int(spec["port"]))
        self.token_file = Path(spec["token_file"])
        self.changes = Changes()
        self.link: Link | None = None
        self.standby = False
        self.ordered: int | None = None
        """The generation that the head wants started."""
        self.running: int | None = None
        """The generation that this node's rank belongs to."""
        self.stood_down: StoodDownError | None = None

    async def watch(self) -> None:
        """Be on the link, again and again, for as long as it takes."""
        while True:
            problem = await self._linked()
            self._unlinked(problem)
            await asyncio.sleep(RETRY_S)

    async def end(self) -> None:
        """Leave the link."""
        if self.link is not None:
            self.link.close()

    async def _linked(self) -> str:
        """One connection; returns why it was none, or is no more."""
        address, port = self.where
        token = read_token(self.token_file)
        if token is None:
            return f"no token in {self.token_file}"
        try:
            async with asyncio.timeout(CONNECT_S):
                link = Link(*await asyncio.open_connection(address, port, limit=MAX_LINE_BYTES))
        except OSError as error:  # TimeoutError among them
            answer = os.strerror(error.errno) if error.errno else "no answer"
            return f"the head's agent is not on {address}:{port} ({answer})"
        try:
            await self._greet(link, token)
            self.link = link
            self._say_standby()
            await talk(link, self._heard)
        except RefusedError as error:
            return str(error)
        except LinkLostError as error:
            return f"the head's agent: {error}"
        finally:
            self.link = None
            link.close()
        return ""

    async def _greet(self, link: Link, token: str) -> None:
        """Prove to the head that this node has the token, and hear its proof. Raises RefusedError, or LinkLostError."""
        challenge, nonce = str((await link.hear(LINK_SILENCE_S)).get("challenge")), new_word()
        link.say(hello=self.name, nonce=nonce, proof=proof(token, "node", self.name, challenge, nonce))
        try:
            answer = await link.hear(LINK_SILENCE_S)
        except HungUpError as error:
            why = "the head's agent takes no link from this node: another token, or a node that it does not know"
            raise RefusedError(why) from error
        if not same(answer.get("welcome"), proof(token, "head", self.name, challenge, nonce)):
            raise RefusedError(f"what answers on {self.where[0]}:{self.where[1]} does not know the token")

    def _unlinked(self, why: str) -> None:
        self.ordered = None
        if self.standby:
            self.node.waits_for(why)
        self._stand_down("head-lost", why)

    def _heard(self, message: Mapping[str, Any]) -> None:
        self.node.waits_for(None)
        if self.standby and isinstance(message.get("start"), int):
            self.ordered = message["start"]
            self.changes.note()
        elif "serving" in message and message["serving"] == self.running and self.stood_down is None:
            self.node.journal.phase("running")
        elif "end" in message:
            self.ordered = None
            self._say_standby()  # it may not have started yet
            if message["end"] == self.running:
                detail = f"by the head: its server of generation {self.running} has ended"
                self._stand_down("requested", detail, why=message.get("why"))

    def _stand_down(self, reason: str, detail: str, why: object = None) -> None:
        if self.running is not None and self.stood_down is None:
            self.stood_down = StoodDownError(reason, detail, why=why)
            self.changes.note()

    def _say_standby(self) -> None:
        if self.link is not None and self.standby:
            self.link.say(state="standby")

    # The gate.

    async def opened(self) -> None:
        """Stand by until the head wants a rank of this node."""
        self.stood_down = None
        self.ordered = None
        self.standby = True
        self.node.journal.phase("standby")
        self._say_standby()
        while self.ordered is None:
            await self.changes.next()
        self.standby = False
        self.running = self.node.journal.state["generation"] = self.ordered
        if self.link is not None:
            self.link.say(state="running", generation=self.running)

    def serving(self) -> None:
        """The head says that."""

    async def stays(self) -> None:
        """The rank belongs to one generation: it ends when the head says so, or is lost."""
        while self.stood_down is None:
            self.node.going_well()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.changes.next(), CHECK_S)
        raise self.stood_down

    def closed(self, error: GiveUpError | None) -> None:
        """Tell the head that this node's rank has ended, and how."""
        there_was_one = self.standby or self.running is not None
        generation, self.running, self.standby = self.running, None, False
        if self.link is not None and there_was_one:
            code = error.fields.get("exit_code") if error is not None else None
            tail = [line[:TAIL_WIDTH] for line in list(self.node.tail)[-TAIL_LINES:]]
            self.link.say(state="ended", generation=generation, exit_code=code, tail=tail)
