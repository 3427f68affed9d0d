"""clusterctl: turn N machines reachable over SSH into one vLLM endpoint, and prove that it works."""

__version__ = "0.1.0"
