"""The answers of Docker's API (1.41), as values: the one place that reads its keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from clusterctl.hosts.engine.engine import Container, EngineInfo, EngineVersion, Image, LocalImage


def container_of(inspected: Mapping[str, Any]) -> Container:
    """What `docker inspect` says of a container."""
    state = inspected["State"]
    started_at = str(state.get("StartedAt") or "")
    return Container(
        id=str(inspected["Id"]),
        name=str(inspected["Name"]).lstrip("/"),
        labels=inspected["Config"].get("Labels") or {},
        status=str(state["Status"]),
        running=bool(state["Running"]),
        restarting=bool(state.get("Restarting")),
        exit_code=int(state.get("ExitCode") or 0),
        oom_killed=bool(state.get("OOMKilled")),
        error=str(state.get("Error") or ""),
        created_at=str(inspected.get("Created") or ""),
        started_at=started_at,
        started_t=unix_time(started_at),
        restart_policy=str(((inspected.get("HostConfig") or {}).get("RestartPolicy") or {}).get("Name") or "no"),
        restart_count=int(inspected.get("RestartCount") or 0),
        raw=inspected,
    )


def image_of(inspected: Mapping[str, Any]) -> Image:
    """What `docker image inspect` says of an image."""
    return Image(str(inspected["Id"]), tuple((inspected.get("RootFS") or {}).get("Layers") or ()))


def local_images_of(inspected: Mapping[str, Any]) -> tuple[LocalImage, ...]:
    """The same, once for each of its names."""
    config = inspected.get("Config") or {}
    lists = [each for key in ("Entrypoint", "Cmd", "Env") for each in config.get(key) or ()]
    labels = [f"{key}={value}" for key, value in (config.get("Labels") or {}).items()]
    created, text = str(inspected.get("Created") or ""), "\n".join(map(str, [*lists, *labels]))
    return tuple(
        LocalImage(str(name), image_of(inspected), created, text)
        for name in inspected.get("RepoTags") or ()
        if "<none>" not in str(name)
    )


def info_of(info: Mapping[str, Any]) -> EngineInfo:
    """What `docker info` says."""
    return EngineInfo(
        version=str(info.get("ServerVersion", "")),
        cgroup_driver=str(info.get("CgroupDriver", "")),
        runtimes=tuple(sorted(info.get("Runtimes") or {})),
        data_root=str(info.get("DockerRootDir", "")),
        time=str(info.get("SystemTime", "")),
        confines=tuple(_named(option) for option in info.get("SecurityOptions") or ()),
        # API 1.44 (Docker 25) and 1.50 (28.2).
        cdi_directories=tuple(info.get("CDISpecDirs") or ()),
        cdi_devices=tuple(
            str(each["ID"]) for each in info.get("DiscoveredDevices") or () if each.get("Source") == "cdi"
        ),
        raw=info,
        # Podman's API says with which Buildah it was built, also where the command `docker` leads to it.
        kind="podman" if "BuildahVersion" in info else "docker",
        # Podman's own word, and Docker's.
        rootless=info.get("Rootless") is True or "name=rootless" in (info.get("SecurityOptions") or ()),
    )


def _named(option: object) -> str:
    """`name=selinux,…` of SecurityOptions."""
    return str(option).partition(",")[0].removeprefix("name=")


def version_of(version: Mapping[str, Any]) -> EngineVersion:
    """What `docker version` says."""
    return EngineVersion(str(version["ApiVersion"]), version)


def unix_time(text: str) -> float | None:
    """Unix time in seconds of a time as the engine writes it; None for its "never" (year 1), and for none."""
    try:
        # Nanoseconds, of which Python knows six digits: 2026-01-02T03:04:05.678901234Z.
        moment = datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", text))
    except ValueError:
        return None
    t = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return t if t > 0 else None
