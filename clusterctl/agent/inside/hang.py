"""What everybody waits for while completions hang, as far as this node can say.

Three witnesses. NCCL's own (RAS, NCCL 2.24 and newer): any process that has a communicator answers for all of them, on
every node. The kernel: the state of each of the server's processes here, what it sleeps in, and whether it has used its
CPU meanwhile. The server: whether a completion comes from each engine, and whether its counters move. Nothing is
changed by looking, and it takes LOOK_S seconds, or the ten that NCCL may take.

`clusterctl_agent hang` prints it for `diagnose`; the agent writes it down when it calls the server hung.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .api import REQUESTS, api_key, ask, complete_one_token, progress_in
from .journal import CONFIG_DIR, read_json

LOOK_S = 6.0
"""Seconds for a completion to come, and between the two looks at CPU time and counters."""
METRICS_S = 2
SHORT_S = 1.0
"""Between the two looks, at least, when completions come."""
RAS_S = 5
"""For NCCL's processes to hear from each other; RAS is asked for no more than twice that."""
RAS_ADDRESS = "localhost:28028"
"""Its default (docs.nvidia.com/deeplearning/nccl, NCCL_RAS_ADDR)."""
RAS_BYTES = 262_144
QUESTION = f"CLIENT PROTOCOL 2\nTIMEOUT {RAS_S}\nVERBOSE STATUS\n"
MISSING = re.compile(r"Process (\d+) on node (\S+) managing GPUs? (\S+)")
RANK = re.compile(r"Rank (\d+) -- GPU (\S+) managed by process (\d+) on node (\S+)")
SECTION = re.compile(r"^(?:#\S+ \(\w+\) )?([A-Z]{4,})$")
LAUNCHED = re.compile(r"(?:\d+ ranks have|1 rank has) launched up to operation (\d+)")
"""Lines of RAS's answer (NCCL 2.24 to 2.29)."""

API_SERVER = "clusterctl_agent\0server"
ENGINE = re.compile(r'^vllm:\w+\{[^}\n]*\bengine="(\d+)"', re.MULTILINE)
OURS = re.compile(rf"^VLLM::|^ray::(?!IDLE)(?:\w*Worker|EngineCore)|{API_SERVER}")
"""Command lines of the server's processes: vLLM and Ray set their titles (vLLM 0.32, Ray 2.60)."""
STOPPED = frozenset("tT")
"""Stopped by a signal, or by a debugger (proc(5), State)."""
ENDED = frozenset("ZX")
TICKS = os.sysconf("SC_CLK_TCK")


def look(server: Mapping[str, Any], look_s: float = LOOK_S, *, complete: bool = True) -> dict[str, Any]:
    """All that can be seen from here. With `complete` a token is asked for of each engine; else it is known that none
    comes. `server` is server.json; only the head's names an API."""
    has_api = bool(server.get("listen"))
    with ThreadPoolExecutor(8, thread_name_prefix="hang") as pool:
        ras = pool.submit(ask_ras)
        before, cpu = (engines(server) if has_api else {}), ours()
        began = time.monotonic()
        wanted: list[int | None] = [*before] or [None]
        wanted = wanted if has_api and complete else []
        # One engine needs no name, and a server without data parallel knows none.
        asked = {e: pool.submit(completion, server, look_s, e if len(wanted) > 1 else None) for e in wanted}
        for future in asked.values():
            future.result()
        time.sleep(max(0.0, (SHORT_S if asked else look_s) - (time.monotonic() - began)))
        after = engines(server) if before else {}
        found = {
            "address": os.environ.get("VLLM_HOST_IP"),
            "seconds": round(time.monotonic() - began, 1),
            "processes": [*processes(cpu)],
            "engines": [engine(number, before, after) for number in before],
            "completions": [{"engine": e, "problem": future.result()} for e, future in asked.items()],
            "ras": ras.result(),
        }
    return {**found, "hung": hung(found)}


# NCCL.


def ask_ras() -> dict[str, Any]:
    """What RAS says: {"missing": ranks and processes that do not answer, "behind": ranks that have begun fewer
    operations than others, "text"}; or {"problem"} where nobody answers."""
    host, _, port = os.environ.get("NCCL_RAS_ADDR", RAS_ADDRESS).rpartition(":")
    deadline, text = time.monotonic() + 2 * RAS_S, b""
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2) as client:
            client.sendall(QUESTION.encode())
            while len(text) < RAS_BYTES:
                client.settimeout(max(0.1, deadline - time.monotonic()))
                if not (part := client.recv(65536)):
                    break
                text += part
    except (OSError, ValueError) as error:
        if not text:
            return {"problem": f"NCCL's RAS does not answer ({error}): no NCCL, older than 2.24, or NCCL_RAS_ENABLE=0"}
    return parsed_ras(text.decode(errors="replace"))


def parsed_ras(text: str) -> dict[str, Any]:
    """Whom RAS names, out of its answer for people."""
    missing: dict[tuple[str, str], dict[str, Any]] = {}
    launched: dict[int, list[dict[str, Any]]] = {}
    section, operation = "", None
    for line in text.splitlines():
        if found := SECTION.match(line.strip()):
            section, operation = found[1], None
        elif found := LAUNCHED.search(line):
            operation = int(found[1])
        elif found := RANK.search(line):
            rank, gpu, pid, node = found.groups()
            named = {"node": node, "pid": int(pid), "gpu": gpu, "rank": int(rank)}
            if section == "MISMATCH" and operation is not None:
                launched.setdefault(operation, []).append(named)
            elif section in ("INCOMPLETE", "DEAD"):
                missing.setdefault((node, pid), {}).update(named)
        elif (found := MISSING.search(line)) and section in ("INCOMPLETE", "DEAD"):
            pid, node, gpu = found.groups()
            missing.setdefault((node, pid), {}).update(node=node, pid=int(pid), gpu=gpu, dead=section == "DEAD")
    behind = launched[min(launched)] if len(launched) > 1 or (launched and not missing) else []
    return {"missing": list(missing.values()), "behind": behind, "text": text}


# The kernel.


def ours() -> dict[int, tuple[str, float | None]]:
    """The server's processes on this node: id → title, and CPU time."""
    lines = {int(f.name): text_of(f / "cmdline") for f in Path("/proc").iterdir() if f.name.isdigit()}
    return {pid: (title(line), cpu_s(pid)) for pid, line in lines.items() if OURS.search(line)}


def title(line: str) -> str:
    """What a process is called."""
    return "the API server" if API_SERVER in line else line.partition("\0")[0].strip()


def processes(before: Mapping[int, tuple[str, float | None]]) -> Iterator[dict[str, Any]]:
    """State of each of the processes that were there: `state` is its letter in /proc (proc(5)), `gone` for none."""
    for pid, (name, was) in sorted(before.items()):
        folder, now = Path("/proc", str(pid)), cpu_s(pid)
        state = re.search(r"^State:\s+(\S)", text_of(folder / "status"), re.MULTILINE)
        yield {
            "pid": pid,
            "name": name,
            "state": state[1] if state else "gone",
            "sleeps_in": text_of(folder / "wchan").strip("0 \n") or None,
            "cpu_s": now,
            "used_s": round(now - was, 2) if now is not None and was is not None else None,
            "stack": text_of(folder / "stack").splitlines()[:12] or None,
        }


def cpu_s(pid: int) -> float | None:
    """Seconds of CPU that a process has used; None when it is gone."""
    fields = text_of(Path("/proc", str(pid), "stat")).rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS if len(fields) > 12 else None


def text_of(path: Path) -> str:
    """A file of /proc; empty where it is gone, or may not be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


# The server.


def completion(server: Mapping[str, Any], timeout_s: float, engine: int | None) -> str | None:
    """Why no token came; None when one did."""
    try:
        complete_one_token(server, timeout_s, engine)
    except TimeoutError:
        return f"no token within {timeout_s:g} s"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"{error}" or type(error).__name__
    return None


def engines(server: Mapping[str, Any]) -> dict[int, tuple[float | None, float]]:
    """Engine → how far it has come, and its requests; empty where the API does not say."""
    try:
        status, text = ask(server, "GET", "/metrics", None, METRICS_S)
        numbers = sorted({int(number) for number in ENGINE.findall(text)}) if status == 200 else []
        return {number: (progress_in(text, number), requests(text, number)) for number in numbers}
    except (OSError, http.client.HTTPException, ValueError):
        return {}


def requests(text: str, engine: int) -> float:
    """Requests that an engine has, running and waiting."""
    found = (match for match in REQUESTS.finditer(text) if f'engine="{engine}"' in match[0])
    return sum(float(match[1]) for match in found)


def engine(number: int, before: Mapping[int, Any], after: Mapping[int, Any]) -> dict[str, Any]:
    """What an engine has done meanwhile."""
    was, now = before[number][0], after.get(number, (None, None))[0]
    moved = None if was is None or now is None else now > was
    return {"engine": number, "requests": after.get(number, before[number])[1], "moved": moved}


def hung(found: Mapping[str, Any]) -> bool | None:
    """Whether an engine gives no completion and does nothing; None on a node that cannot tell."""
    if not found["completions"]:
        return None
    still = {each["engine"] for each in found["engines"] if not each["moved"]}
    silent = {each["engine"] for each in found["completions"] if (each["problem"] or "").startswith("no token")}
    return bool(silent & still) or (bool(silent) and not found["engines"])


def blamed(found: Mapping[str, Any]) -> str | None:
    """For whom everybody waits, in a few words; None where nobody stands out."""
    ras = found["ras"]
    for each in ras.get("missing", ()):
        rank = f"rank {each['rank']}, " if "rank" in each else ""
        return f"{rank}process {each['pid']} on {each['node']} (GPU {each['gpu']}) does not answer NCCL"
    for each in found["processes"]:
        if each["state"] in STOPPED:
            return f"process {each['pid']} ({each['name']}) on this node is stopped by a signal"
        if each["state"] in ENDED or each["state"] == "gone":
            return f"process {each['pid']} ({each['name']}) on this node has ended"
    for each in ras.get("behind", ()):
        return f"rank {each['rank']}, process {each['pid']} on {each['node']}, is behind the others in NCCL"
    return None


def here() -> dict[str, Any]:
    """What `clusterctl_agent hang` prints."""
    server = read_json(CONFIG_DIR / "server.json")
    server["key"] = api_key(server)
    return look(server, LOOK_S if server.get("listen") else LOOK_S / 2)


def brief(found: Mapping[str, Any]) -> dict[str, Any]:
    """As much of it as an event may hold: the engine cuts long lines."""
    ras = {key: value for key, value in found["ras"].items() if key != "text"}
    return {**found, "ras": ras, "processes": [{**each, "stack": None} for each in found["processes"]][:64]}
