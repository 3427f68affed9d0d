"""Why an agent starts its server anew or gives up: the codes it writes down, in words."""

from __future__ import annotations

from collections.abc import Mapping

FAILURES: Mapping[str, str] = {
    "ray-exited": "Ray stopped on this node",
    "ray-nodes-wrong": "Ray holds other nodes or GPUs than the inventory declares (F3)",
    "ray-nodes-missing": "not every node joined Ray in time (F44)",
    "members-missing": "not every node's agent was on the link to the head's, ready to start its rank, in time",
    "member-lost": "the head's agent has lost the link to a node's agent, and the server that node's ranks",
    "rank-exited": "a node's part of the server has ended, and with it the whole server (its exit code may be 0)",
    "link-port": "the head's agent cannot listen for the other nodes' agents (mp.ports.agent)",
    "probe-died": "Ray could not be asked which nodes it has",
    "head-lost": "the head's Ray, or its agent, is gone, and with it the cluster that this node was in (F62)",
    "node-lost": "a node has left Ray, and the server has lost its ranks (F60)",
    "worker-lost": "a rank of the server has died (F60)",
    "workers-left": "Ray did not end what an earlier server had started (F63)",
    "server-exited": "the vLLM server ended (its exit code is 0 also when its engine died: F60)",
    "no-completion": "the server answers, but generation does not work (F60, F61)",
    "server-hangs": "the server takes requests and its engine does nothing (F61)",
    "load-timeout": "the server did not complete a token in time (timeouts.load_s)",
    "agent-bug": "a defect of clusterctl's agent: please report it with this output",
}
"""What an agent's reasons for giving up mean (inside/tasks.py, GiveUpError)."""


RETURNS: Mapping[str, str] = {
    "requested": "an operator asked for it; on a follower, its head did",
    "started-again": "the container was stopped and started again: by a person, the engine or the machine",
    "container-ended": "the container ended without a word: killed, out of memory, or the machine lost its power",
}
"""What an agent's other reasons for a start mean (inside/journal.py, Journal.restart)."""


MEANINGS: Mapping[str, str] = {**FAILURES, **RETURNS}
"""What every reason in an agent's events means."""
