"""Labels on containers: what runs is found by them, and by nothing on the operator's machine."""

from __future__ import annotations

LABEL_ROLE = "clusterctl.role"


LABEL_NODE = "clusterctl.node"


LABEL_SPEC = "clusterctl.spec"


LABEL_VERSION = "clusterctl.version"


ROLE_PROBE = "probe"
