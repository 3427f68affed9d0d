"""Files that are placed in a container beside the rendered ones: its record, and secrets."""

from __future__ import annotations

import json

from clusterctl.agent.paths import API_KEY_PATH, SPEC_PATH
from clusterctl.hosts.engine.engine import FileInContainer
from clusterctl.planning.container import ContainerSpec

PRIVATE_MODE = 0o600


def spec_record(spec: ContainerSpec) -> FileInContainer:
    """What the next plan compares with."""
    return FileInContainer(SPEC_PATH, json.dumps(spec.values(), sort_keys=True).encode())


def key_file(key: bytes | None) -> FileInContainer:
    """The API's key, for the head's container; empty where there shall be none, so that an old one goes."""
    return FileInContainer(API_KEY_PATH, key or b"", PRIVATE_MODE)
