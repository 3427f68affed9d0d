"""What a node's container engine says of itself and of the image."""

from __future__ import annotations

from clusterctl.agent.labels import LABEL_CLUSTER
from clusterctl.agent.paths import cache_name
from clusterctl.facts import parse
from clusterctl.facts.fact import Fact, Unknown
from clusterctl.facts.records import CacheVolume, EngineFacts, ImageFacts
from clusterctl.hosts.engine.engine import EngineError, Volume
from clusterctl.hosts.host import Host


def engine_facts(host: Host, socket: parse.Section | None, *, sudo: bool) -> Fact[EngineFacts]:
    """What the engine says of itself; None when there is none."""
    if socket is not None and socket.exit_code == parse.COMMAND_NOT_FOUND:
        return None
    says = host.engine.commands
    if socket is not None and socket.exit_code == parse.ABSENT and not sudo:
        where = socket.text.strip().splitlines()[-1:] or [""]
        path = where[0] if where[0].startswith("/") and where[0].endswith(".sock") else says.socket
        return Unknown(f"the {says.program} command is there, but no engine runs: {path} does not exist")
    try:
        info = host.engine.info()
    except EngineError as error:
        if socket is not None and socket.exit_code == parse.NOT_PERMITTED and not sudo:
            return Unknown(f"this login may not use the engine: {says.socket} is not writable for it")
        return Unknown(error.message)
    return EngineFacts(
        version=info.version,
        cgroup_driver=info.cgroup_driver,
        runtimes=info.runtimes,
        data_root=info.data_root,
        time=info.time,
        confines=info.confines,
        cdi_directories=info.cdi_directories,
        cdi_devices=info.cdi_devices,
        kind=info.kind,
        rootless=info.rootless,
    )


def image_facts(host: Host, reference: str) -> Fact[ImageFacts]:
    """The image on this node; None when it is absent."""
    try:
        image = host.engine.image(reference)
    except EngineError as error:
        return Unknown(error.message)
    return ImageFacts(image.id, image.layers) if image is not None else None


def cache_facts(host: Host, cluster: str) -> Fact[CacheVolume]:
    """The cluster's volume of compiled code; None when there is none, or one of its name that is somebody else's."""
    try:
        volume = own_cache(host, cluster)
    except EngineError as error:
        return Unknown(error.message)
    return CacheVolume(volume.name, volume.directory) if volume is not None else None


def own_cache(host: Host, cluster: str) -> Volume | None:
    """The same as the engine has it. Raises EngineError."""
    volume = host.engine.volumes.find(cache_name(cluster))
    return volume if volume is not None and volume.labels.get(LABEL_CLUSTER) == cluster else None
