"""A bundle that somebody sent: read back into evidence, so that its causes are found by the tables of today.

Nothing is unpacked to disk. What is missing or damaged in it is named and costs nothing else.
"""

from __future__ import annotations

import gzip
import json
import tarfile
import time
import zlib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from clusterctl.agent import paths
from clusterctl.agent.labels import LABEL_ROLE
from clusterctl.diagnosis.bundle import MIB, Bundle, Missed
from clusterctl.diagnosis.causes import diagnose
from clusterctl.diagnosis.evidence import ContainerEvidence, Evidence, NodeEvidence, situation
from clusterctl.errors import UsageError
from clusterctl.findings.finding import Finding, Severity
from clusterctl.hosts.engine.answers import container_of

LARGEST_FILE_BYTES = 64 * MIB
LARGEST_BUNDLE_BYTES = 1024 * MIB
"""More than any bundle holds when it is unpacked: what claims more is not one of ours."""


def received(path: Path) -> Bundle:
    """The bundle in this file, its causes found anew. Raises UsageError when it is none, or cannot be read."""
    began = time.monotonic()
    files = _files(path)
    try:
        manifest = json.loads(files["manifest.json"])
        cluster, complete = str(manifest["cluster"]), bool(manifest["complete"])
        unreachable = {str(node): (str(reason), None) for node, reason in manifest["unreachable"].items()}
        missed = [Missed(str(each["node"]), str(each["what"]), str(each["reason"])) for each in manifest["missed"]]
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is no bundle of clusterctl diagnose: its manifest.json cannot be read") from error
    nodes = {name: _node(name, inside, missed) for name, inside in _by_node(files).items() if name not in unreachable}
    evidence = Evidence(
        head=_head(files, nodes),
        nodes=nodes,
        unreachable=unreachable,
        findings=_findings(files, missed),
        error=files["error.txt"].decode(errors="replace").rstrip("\n") if "error.txt" in files else None,
    )
    causes = diagnose(evidence)
    return Bundle(
        cluster,
        path,
        situation(evidence),
        causes,
        {name: reason for name, (reason, _) in unreachable.items()},
        complete,
        evidence.containers and not (evidence.serving or evidence.starting or causes),
        tuple(missed),
        round(time.monotonic() - began, 2),
    )


def _files(path: Path) -> dict[str, bytes]:
    """Path inside the bundle's only folder → content."""
    found: dict[str, bytes] = {}
    size = 0
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                if file is None:
                    continue
                size += member.size
                if member.size > LARGEST_FILE_BYTES or size > LARGEST_BUNDLE_BYTES:
                    raise UsageError(f"{path} is no bundle of clusterctl diagnose: {member.name} is too large for one")
                found[member.name.partition("/")[2]] = file.read()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(
            f"{path} is no bundle of clusterctl diagnose, or was cut off on its way: {error or 'it ends too early'}",
            hint="a bundle is a .tar.gz; a log is read by clusterctl explain FILE",
        ) from error
    return found


def _by_node(files: Mapping[str, bytes]) -> Mapping[str, dict[str, bytes]]:
    """Node → its files, by the path below the node."""
    found: dict[str, dict[str, bytes]] = defaultdict(dict)
    for path, content in files.items():
        top, _, rest = path.partition("/")
        node, _, inside = rest.partition("/")
        if top == "nodes" and inside:
            found[node][inside] = content
    return found


def _node(name: str, files: Mapping[str, bytes], missed: list[Missed]) -> NodeEvidence:
    by_container: dict[str, dict[str, bytes]] = defaultdict(dict)
    for path, content in files.items():
        top, _, rest = path.partition("/")
        container, _, inside = rest.partition("/")
        if top == "containers" and inside:
            by_container[container][inside] = content
    containers: list[ContainerEvidence] = []
    ray: dict[str, str] = {}
    for container, held in by_container.items():
        try:
            containers.append(_container(held))
        except (KeyError, ValueError, TypeError, AttributeError):
            missed.append(Missed(name, f"containers/{container}/inspect.json", "it is missing or damaged"))
        ray |= {path: text.decode(errors="replace") for path, text in held.items() if path.startswith("ray/")}
    kernel = files.get("dmesg.txt", b"").decode(errors="replace")
    clock = kernel.partition("\n")[0].split()
    now = float(clock[2]) if len(clock) == 3 and clock[0] == "clock" and clock[2].isdigit() else None
    unread = bool(by_container) and not containers  # something was there: that is not the same as nothing
    return NodeEvidence(None if unread else tuple(containers), kernel, ray, now)


def _container(files: Mapping[str, bytes]) -> ContainerEvidence:
    container = container_of(json.loads(files["inspect.json"]))
    state = json.loads(files.get(paths.STATE_PATH.lstrip("/"), b"{}"))
    return ContainerEvidence(
        name=container.name,
        role=container.labels.get(LABEL_ROLE, ""),
        status=container.status,
        exit_code=container.exit_code,
        oom_killed=container.oom_killed,
        error=container.error,
        restarts=container.restart_count,
        started_t=container.started_t,
        state=state if isinstance(state, dict) else {},
        log=files.get("stdout.log", b"").decode(errors="replace"),
    )


def _findings(files: Mapping[str, bytes], missed: list[Missed]) -> tuple[Finding, ...]:
    try:
        rows: list[dict[str, Any]] = json.loads(files.get("findings.json", b"[]"))
        return tuple(
            Finding(
                code=row["code"],
                severity=Severity(row["severity"]),
                nodes=tuple(row["nodes"]),
                seen=row["seen"],
                why=row["why"],
                fix=row["fix"],
                waived=bool(row["waived"]),
            )
            for row in rows
        )
    except (KeyError, ValueError, TypeError):
        missed.append(Missed("", "findings.json", "it is damaged"))
        return ()


def _head(files: Mapping[str, bytes], nodes: Mapping[str, NodeEvidence]) -> str:
    """The head's name: the inventory's, else the first node."""
    try:
        said = yaml.safe_load(files["inventory-as-read.yaml"])
        return str(said.get("head") or said["nodes"][0]["name"])
    except (KeyError, IndexError, TypeError, AttributeError, yaml.YAMLError):
        return next(iter(nodes), "")
