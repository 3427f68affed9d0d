"""Examples of every command, for its `--help` and the reference page. A test runs each through click's parser."""

from __future__ import annotations

import click

EXAMPLES = {
    "": ("clusterctl init --hosts gpu1,gpu2", "clusterctl up", "clusterctl -i prod.yaml status"),
    "api-key": (
        "clusterctl api-key",
        'curl -H "Authorization: Bearer $(clusterctl api-key)" http://HOST:8000/v1/models',
    ),
    "bench": (
        "clusterctl bench --shape 1024:128 --concurrency 1,4,16",
        "clusterctl bench --compare vllm-bench-OLD.json",
    ),
    "check": ("clusterctl check", "clusterctl check --full --nccl", "clusterctl check --explain image-absent"),
    "completion": (
        "clusterctl completion install",
        "clusterctl completion install zsh",
        "source <(clusterctl completion bash)",
    ),
    "diagnose": ("clusterctl diagnose", "clusterctl diagnose bundle.tar.gz"),
    "down": ("clusterctl down", "clusterctl down --drain-timeout 0", "clusterctl down --purge"),
    "exec": ("clusterctl exec gpu1 -- nvidia-smi", "clusterctl exec --all --host -- uptime"),
    "explain": ("clusterctl explain vllm.log", "clusterctl logs | clusterctl explain"),
    "firewall": (
        "clusterctl firewall --clients 192.0.2.0/24",
        "clusterctl firewall --prometheus 10.77.0.9/32 --offline",
    ),
    "history": ("clusterctl history --limit 5", "clusterctl history --node gpu1 --json"),
    "init": (
        "clusterctl init --hosts gpu1,gpu2",
        "clusterctl -i prod.yaml init --hosts gpu1,gpu2 --user ubuntu --model /models/llama --yes",
        "clusterctl init --template two-sparks",
    ),
    "lab": ("clusterctl lab setup", "clusterctl lab up", "clusterctl lab down"),
    "lab down": ("clusterctl lab down", "clusterctl lab down --name demo --purge-cache"),
    "lab heal": ("clusterctl lab heal node2",),
    "lab partition": ("clusterctl lab partition node2",),
    "lab power-off": ("clusterctl lab power-off node2",),
    "lab power-on": ("clusterctl lab power-on node2",),
    "lab setup": ("clusterctl lab setup",),
    "lab status": ("clusterctl lab status", "clusterctl lab status --name demo --json"),
    "lab up": ("clusterctl lab up", "clusterctl lab up --name demo --nodes 4 --gpus 2"),
    "layout": ("clusterctl layout", "clusterctl layout --requests 32 --input-tokens 2000 --output-tokens 300"),
    "logs": ("clusterctl logs --follow", "clusterctl logs --node gpu2 --tail 100"),
    "metrics": ("clusterctl metrics targets > targets.json", "clusterctl metrics dashboard > dashboard.json"),
    "metrics dashboard": ("clusterctl metrics dashboard > dashboard.json",),
    "metrics targets": ("clusterctl metrics targets --offline > targets.json",),
    "nodes": ("clusterctl nodes", "clusterctl nodes --json"),
    "plan": ("clusterctl plan", "clusterctl plan --detailed-exitcode"),
    "report": ("clusterctl report", "clusterctl report --output cluster.html"),
    "restart": ("clusterctl restart", "clusterctl restart --server-only --drain-timeout 60"),
    "schema": ("clusterctl schema > inventory.schema.json",),
    "shell": ("clusterctl shell gpu1", "clusterctl shell gpu1 --host"),
    "status": ("clusterctl status", "clusterctl status --watch", "clusterctl status --json"),
    "up": ("clusterctl up", "clusterctl up --check quick", "clusterctl up --wait 600"),
    "verify": ("clusterctl verify", "clusterctl verify --output records --compare vllm-verify-OLD.json"),
}
"""Words behind `clusterctl` that name the command -> lines for a shell."""


def add_examples(command: click.Command, path: str = "") -> None:
    """Give a command and those below it their examples, behind the options. Raises KeyError for one without."""
    # \b: click leaves the lines as they are.
    command.epilog = "\b\n" + "\n".join(["Examples:", *(f"  {line}" for line in EXAMPLES[path])])
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            add_examples(child, f"{path} {name}".strip())
