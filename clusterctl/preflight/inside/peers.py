"""Short-lived probe of the network between the nodes. One file, standard library only, run by the image's own python3.

One runs on every node, in the serving image with host network. It listens on every port that the cluster will listen
on, then connects to all the others: what passes here passes for Ray, Gloo and NCCL, through the same interfaces, the
same routes and the same firewalls, and no node needs a tool for it.

It does one step each time it gets SIGUSR1: it reads /etc/clusterctl/step.json and answers with one JSON object on a
line of stdout. It changes nothing on the node, and ends by itself when nobody asks for anything any more.
Configuration: /etc/clusterctl/peers.json. The reader of its answers is clusterctl/facts/pairs.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import resource
import selectors
import signal
import socket
import statistics
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

CONFIG_PATH = Path("/etc/clusterctl/peers.json")
STEP_PATH = Path("/etc/clusterctl/step.json")
CONNECT_S = 2.0
"""Deadline of one connection. Inside a private network it takes under a millisecond; a lost SYN is sent again after
1 s (Linux), so that one lost packet is not a blocked port."""
ATTEMPTS = 2
"""So that a machine that is busy for a moment is not a blocked port either."""
HELLO = b"clusterctl "
"""What a listener of this probe says first, followed by its node's name and a newline."""
AT_ONCE = 512
"""Connections in flight; the usual soft limit of open files is 1024."""
ROUND_TRIPS = 20
BULK_BYTES = 256 * 1024
"""Echoed in one piece: many full-sized segments in both directions, which is what a too small MTU swallows (F34)."""
MTU_LADDER = (9000, 8900, 4200, 4000, 2044, 1500, 1492, 1450, 1400, 1280, 576)
"""Packet sizes to try below the interface's own: common MTUs and what tunnels leave of them."""
MTU_TRIES = 3
MTU_WAIT_S = 0.3
IP_UDP_HEADERS = 28
IP_MTU_DISCOVER, IP_PMTUDISC_PROBE = 10, 3
"""linux/in.h: set "don't fragment", and let the wire decide instead of a path MTU that the kernel remembers."""
SIOCGIFMTU = 0x8921
STREAMS = 4
CHUNK_BYTES = 1 << 20
BACKLOG = 1024


def main() -> None:
    """Listen, then do what is asked, step by step."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    for wanted in (signal.SIGTERM, signal.SIGINT):
        # The first process of a container ignores signals that it does not handle.
        signal.signal(wanted, lambda *_: os._exit(0))
    config = json.loads(CONFIG_PATH.read_text())
    _allow_many_files()
    try:
        answer = Listeners(config).describe()
    except OSError as error:
        answer = {"event": "failed", "reason": f"cannot listen on {config['address']}: {error.strerror or error}"}
    say(answer)
    # Without SIGUSR1 for so long, the operator's side is gone.
    while signal.sigtimedwait({signal.SIGUSR1}, config["idle_s"]):
        try:
            say(step(json.loads(STEP_PATH.read_text())))
        except OSError as error:
            say({"event": "failed", "reason": str(error)})


def step(asked: dict[str, Any]) -> dict[str, Any]:
    """One step: `peers` (connect to and measure all others) or `send` (throughput to one)."""
    if asked["step"] == "send":
        return {"event": "sent", **throughput(asked["address"], asked["port"], asked["seconds"])}
    return {"event": "peers", "peers": look_at(asked["peers"], asked["interface_mtu"])}


def say(answer: dict[str, Any]) -> None:
    """One answer, on a line."""
    print(json.dumps(answer), flush=True)


def _allow_many_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Listeners:
    """Every port of this node: the pinned ones that are free, some of the kernel's own choice, and the one that echoes
    and swallows bytes."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.name = HELLO + config["node"].encode() + b"\n"
        self.address: str = config["address"]
        self.interface: str = config["interface"]
        self.held: list[int] = []
        self.selector = selectors.DefaultSelector()
        for port in config["ports"]:
            try:
                self._listen(port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                self.held.append(port)  # by the running cluster, or by a stranger that another check names
        # NCCL, Gloo, torch's store and vLLM's queues listen on ports of the kernel's choice (F55).
        self.ephemeral = [self._listen(0) for _ in range(config["ephemeral"])]
        self.service = self._listen(0)
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind((self.address, 0))
        threading.Thread(target=self._accept_for_ever, daemon=True).start()
        threading.Thread(target=self._answer_datagrams, daemon=True).start()

    def describe(self) -> dict[str, Any]:
        """What the others need to know."""
        return {
            "event": "listening",
            "held": self.held,
            "ephemeral": self.ephemeral,
            "service": self.service,
            "udp": self.udp.getsockname()[1],
            "mtu": interface_mtu(self.interface),
        }

    def _listen(self, port: int) -> int:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self.address, port))
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
        listener.setblocking(False)
        self.selector.register(listener, selectors.EVENT_READ)
        return int(listener.getsockname()[1])

    def _accept_for_ever(self) -> None:
        while True:
            for key, _ in self.selector.select():
                listener: Any = key.fileobj
                with contextlib.suppress(OSError):
                    connection, _ = listener.accept()
                    self._greet(connection, listener.getsockname()[1])

    def _greet(self, connection: socket.socket, port: int) -> None:
        connection.settimeout(CONNECT_S)
        connection.sendall(self.name)
        if port == self.service:
            threading.Thread(target=_serve, args=(connection,), daemon=True).start()
        else:
            connection.close()

    def _answer_datagrams(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                data, sender = self.udp.recvfrom(1 << 16)
                # The answer is small: only the way here is measured.
                self.udp.sendto(struct.pack("!I", len(data)), sender)


def _serve(connection: socket.socket) -> None:
    """The service port: bytes come back (`E`), or are swallowed (`S`)."""
    with contextlib.suppress(OSError), connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        mode = connection.recv(1)
        buffer = bytearray(CHUNK_BYTES)
        while got := connection.recv_into(buffer):
            if mode == b"E":
                connection.sendall(memoryview(buffer)[:got])


def look_at(peers: list[dict[str, Any]], mtu: int) -> dict[str, Any]:
    """Ports, route, latency, and packet sizes, to every peer at once."""
    reached = asyncio.run(_connect_all(peers))
    answering = [peer for peer in peers if reached[peer["node"]][peer["service"]] == "ok"]
    sizes = largest_packets(answering, mtu)
    return {
        peer["node"]: {
            "ports": {str(port): outcome for port, outcome in reached[peer["node"]].items()},
            "route": route_to(peer["address"]),
            "largest_packet": sizes.get(peer["node"]),
            **(round_trips(peer["address"], peer["service"]) if peer in answering else {}),
        }
        for peer in peers
    }


async def _connect_all(peers: list[dict[str, Any]]) -> dict[str, dict[int, str]]:
    slots = asyncio.Semaphore(AT_ONCE)
    wanted = [(peer, port) for peer in peers for port in [*peer["ports"], peer["service"]]]
    outcomes = await asyncio.gather(*(_connect(slots, peer, port) for peer, port in wanted))
    found: dict[str, dict[int, str]] = {peer["node"]: {} for peer in peers}
    for (peer, port), outcome in zip(wanted, outcomes, strict=True):
        found[peer["node"]][port] = outcome
    return found


async def _connect(slots: asyncio.Semaphore, peer: dict[str, Any], port: int) -> str:
    """`ok`, `refused`, `timeout`, `unreachable: …`, or `other: NAME` when another node's listener answered."""
    outcome = ""
    for _ in range(ATTEMPTS):
        async with slots:
            outcome = await _connect_once(peer, port)
        if outcome != "timeout":
            break
    return outcome


async def _connect_once(peer: dict[str, Any], port: int) -> str:
    try:
        greeting = await asyncio.wait_for(_greeting(peer["address"], port, silent=port in peer["held"]), CONNECT_S)
    except (TimeoutError, asyncio.TimeoutError):  # noqa: UP041 (two types before Python 3.11)
        return "timeout"
    except ConnectionRefusedError:
        return "refused"
    except OSError as error:
        return f"unreachable: {os.strerror(error.errno) if error.errno else error}"
    return "ok" if port in peer["held"] else _outcome(greeting, peer["node"])


async def _greeting(address: str, port: int, *, silent: bool) -> bytes:
    """What the listener says first; nothing where it is not one of this probe (`silent`)."""
    reader, writer = await asyncio.open_connection(address, port)
    try:
        return b"" if silent else await reader.readline()
    finally:
        writer.close()


def _outcome(greeting: bytes, node: str) -> str:
    name = greeting[len(HELLO) :].strip().decode(errors="replace") if greeting.startswith(HELLO) else ""
    return "ok" if name == node else f"other: {name or 'something that is not this probe'}"


def round_trips(address: str, port: int) -> dict[str, Any]:
    """Round-trip times in microseconds, and whether a large piece comes back whole."""
    took: list[float] = []
    bulk = False
    with contextlib.suppress(OSError), _open(address, port, b"E") as connection:
        for _ in range(ROUND_TRIPS):
            began = time.perf_counter()
            connection.sendall(b"x")
            connection.recv(1)
            took.append((time.perf_counter() - began) * 1e6)
        bulk = _echoed(connection, BULK_BYTES)
    if not took:
        return {}
    return {"min_us": round(min(took), 1), "median_us": round(statistics.median(took), 1), "bulk": bulk}


def _open(address: str, port: int, mode: bytes) -> socket.socket:
    connection = socket.create_connection((address, port), CONNECT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while (got := connection.recv(1)) != b"\n":
        if not got:
            raise ConnectionResetError("closed before its greeting ended")
    connection.sendall(mode)
    return connection


def _echoed(connection: socket.socket, size: int) -> bool:
    """Send from a thread while reading: neither side's buffer holds it all."""
    sender = threading.Thread(target=_send_quietly, args=(connection, size), daemon=True)
    sender.start()
    missing, deadline = size, time.monotonic() + CONNECT_S
    while missing > 0 and time.monotonic() < deadline:
        got = connection.recv(CHUNK_BYTES)
        if not got:
            break
        missing -= len(got)
    return missing == 0


def _send_quietly(connection: socket.socket, size: int) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(bytes(size))


def largest_packets(peers: list[dict[str, Any]], mtu: int) -> dict[str, int]:
    """Node → size in bytes of the largest IP packet that arrived unfragmented; a node without any answer is absent."""
    sizes = [mtu, *(size for size in MTU_LADDER if size < mtu)]
    by_address = {peer["address"]: peer["node"] for peer in peers}
    found: dict[str, int] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
        for _ in range(MTU_TRIES):
            missing = [peer for peer in peers if found.get(peer["node"]) != mtu]
            for peer in missing:
                for size in sizes:
                    with contextlib.suppress(OSError):  # larger than the interface takes, or refused by an ICMP answer
                        sender.sendto(bytes(size - IP_UDP_HEADERS), (peer["address"], peer["udp"]))
            for address, size in _answers(sender, MTU_WAIT_S if missing else 0, len(missing) * len(sizes)):
                node = by_address[address]
                found[node] = max(found.get(node, 0), size)
    return found


def _answers(sender: socket.socket, wait_s: float, expected: int) -> Iterator[tuple[str, int]]:
    deadline = time.monotonic() + wait_s
    while expected and (remaining := deadline - time.monotonic()) > 0:
        sender.settimeout(remaining)
        with contextlib.suppress(OSError):
            data, (address, _) = sender.recvfrom(64)
            expected -= 1
            yield address, struct.unpack("!I", data)[0] + IP_UDP_HEADERS


def throughput(address: str, port: int, seconds: float) -> dict[str, Any]:
    """Bytes that went to the peer in about that time, over several TCP streams."""
    sent = [0] * STREAMS
    ends = time.monotonic() + seconds
    began = time.monotonic()

    def stream(index: int) -> None:
        with contextlib.suppress(OSError), _open(address, port, b"S") as connection:
            chunk = bytes(CHUNK_BYTES)
            while time.monotonic() < ends:
                sent[index] += connection.send(chunk)

    threads = [threading.Thread(target=stream, args=(index,), daemon=True) for index in range(STREAMS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 2 * CONNECT_S)
    return {"bytes": sum(sent), "seconds": time.monotonic() - began}


def interface_mtu(name: str) -> int:
    """The interface's MTU in bytes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        answer = fcntl.ioctl(asked, SIOCGIFMTU, struct.pack("16s16x", name.encode()))
    return int(struct.unpack("16xi12x", answer)[0])


def route_to(address: str) -> dict[str, str] | None:
    """Interface and source address that the kernel would use, as `ip route get` says; None when it has no route."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
        kernel.settimeout(CONNECT_S)
        kernel.send(_route_request(address))
        attributes = dict(_route_attributes(kernel.recv(1 << 16)))
        interface = socket.if_indextoname(struct.unpack("=I", attributes[RTA_OIF])[0])
        return {"interface": interface, "source": socket.inet_ntoa(attributes[RTA_PREFSRC])}
    return None


# rtnetlink(7): a header (length, type, flags, sequence, port), a route message, attributes (length, type, value).
RTM_NEWROUTE, RTM_GETROUTE, NLM_F_REQUEST = 24, 26, 1
RTA_DST, RTA_OIF, RTA_PREFSRC = 1, 4, 7


def _route_request(address: str) -> bytes:
    message = struct.pack("=BBBBBBBBI", socket.AF_INET, 32, 0, 0, 0, 0, 0, 0, 0)
    message += struct.pack("=HH", 8, RTA_DST) + socket.inet_aton(address)
    return struct.pack("=IHHII", 16 + len(message), RTM_GETROUTE, NLM_F_REQUEST, 1, 0) + message


def _route_attributes(answer: bytes) -> Iterable[tuple[int, bytes]]:
    length, kind = struct.unpack_from("=IH", answer)
    if kind != RTM_NEWROUTE:
        raise OSError(errno.ENETUNREACH, "no route")
    at = 16 + 12
    while at + 4 <= length:
        size, name = struct.unpack_from("=HH", answer, at)
        yield name, answer[at + 4 : at + size]
        at += (size + 3) & ~3


if __name__ == "__main__":
    main()
