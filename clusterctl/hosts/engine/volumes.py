"""Named volumes of one node's engine: directories that it keeps, and that only root and the engine can enter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from clusterctl.hosts.engine.engine import EngineError, Volume

Ask = Callable[[str, Callable[[Any], Any]], Any]


class DockerVolumes:
    """Docker's. `read` asks the API something: what for, and the call, made again when SSH was lost over it; `change`
    makes a call once."""

    def __init__(self, read: Ask, change: Ask) -> None:
        self._read, self._change = read, change

    def find(self, name: str) -> Volume | None:
        """`docker volume inspect`, or None when there is none."""
        try:
            return _volume(self._read(f"inspect volume {name}", lambda api: api.inspect_volume(name)))
        except EngineError as error:
            if error.status == 404:
                return None
            raise

    def make(self, name: str, labels: Mapping[str, str]) -> Volume:
        """`docker volume create`, which answers with the one that is there."""
        return _volume(self._change(f"create volume {name}", lambda api: api.create_volume(name, labels=dict(labels))))

    def remove(self, name: str) -> None:
        """`docker volume rm`; harmless when it is gone."""
        try:
            self._change(f"remove volume {name}", lambda api: api.remove_volume(name))
        except EngineError as error:
            if error.status != 404:
                raise


def _volume(inspected: Mapping[str, Any]) -> Volume:
    return Volume(str(inspected["Name"]), str(inspected.get("Mountpoint") or ""), inspected.get("Labels") or {})
