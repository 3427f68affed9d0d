"""Why an agent starts its server anew or gives up: the codes it writes down, in words."""

from __future__ import annotations

from collections.abc import Mapping

FAILURES: Mapping[str, str] = {
    "ray-exited": "Ray stopped on this node",
    "ray-nodes-wrong": "Ray holds other nodes or GPUs than the inventory declares",
    "ray-nodes-missing": "not every node joined Ray in time",
    "members-missing": "not every node's agent was on the link to the head's, ready to start its rank, in time",
    "member-lost": "the head's agent has lost the link to a node's agent, and the server that node's ranks",
    "rank-exited": "a node's part of the server has ended, and with it the whole server (its exit code may be 0)",
    "link-port": "the head's agent cannot listen for the other nodes' agents (mp.ports.agent)",
    "probe-died": "Ray did not answer which nodes it has",
    "head-lost": "the head's Ray, or its agent, is gone, and with it the cluster that this node was in",
    "node-lost": "a node has left Ray, and the server has lost its ranks",
    "worker-lost": "a rank of the server has died",
    "workers-left": "Ray did not stop the workers of an earlier server",
    "server-exited": "the vLLM server ended (its exit code is 0 even when its engine died)",
    "no-completion": "the server answers, but generation does not work",
    "server-hangs": "the server accepts requests, but its engine makes no progress",
    "load-timeout": "the server did not complete a first token in time (timeouts.load_s)",
    "agent-bug": "a bug in clusterctl's agent: please report it with this output",
}
"""What an agent's reasons for giving up mean (inside/tasks.py, GiveUpError)."""


RETURNS: Mapping[str, str] = {
    "requested": "an operator asked for it; on a follower, its head did",
    "started-again": "the container was stopped and started again, by a person, the engine or the machine",
    "container-ended": "the container ended without notice: killed, out of memory, or the machine lost power",
}
"""What an agent's other reasons for a start mean (inside/journal.py, Journal.restart)."""


MEANINGS: Mapping[str, str] = {**FAILURES, **RETURNS}
"""What every reason in an agent's events means."""
