"""Labels on containers: what runs is found by them, and by nothing on the operator's machine."""

from __future__ import annotations

LABEL_CLUSTER = "clusterctl.cluster"
LABEL_ROLE = "clusterctl.role"
LABEL_NODE = "clusterctl.node"
LABEL_SPEC = "clusterctl.spec"
"""Hash of what the container was started with."""
LABEL_VERSION = "clusterctl.version"
"""Of the clusterctl that started it."""
LABEL_EXECUTOR = "clusterctl.executor"
"""What joins the server's processes: ray or mp. Containers of before there was a choice have none, and run Ray."""
UNLABELLED_EXECUTOR = "ray"
LABEL_GPUS = "clusterctl.gpus"
"""UUIDs of the GPUs that the container was given, comma between them: an index may be another GPU after a reboot."""

ROLE_HEAD = "head"
ROLE_WORKER = "worker"
ROLE_PROBE = "probe"
"""Only asks, and ends by itself: no part of the cluster."""

RANK_ROLES = (ROLE_HEAD, ROLE_WORKER)
"""Roles of the containers that hold the server's ranks, of which a node has one. Any other role of the cluster (an
exporter, say) stands beside it: `down` removes it, and nothing else counts it."""
