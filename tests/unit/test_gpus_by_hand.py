"""The start by hand that benchmarks/gpus_of_host.py compares with: its command says what the container of clusterctl
has."""

from __future__ import annotations

import yaml

from benchmarks import gpus_by_hand as hand

HOST = {
    "NetworkMode": "host",
    "IpcMode": "private",
    "ShmSize": 34359738368,
    "Ulimits": [{"Name": "stack", "Hard": 67108864, "Soft": 67108864}],
    "CapAdd": None,
    "Binds": ["/models/m:/models/m:ro", "/var/cache/vllm:/root/.cache"],
    "DeviceRequests": [{"Driver": "cdi", "Count": 0, "DeviceIDs": ["nvidia.com/gpu=GPU-1"], "Capabilities": None}],
}
"""As `docker inspect` has it (Docker 26.1)."""


def test_the_flags_of_a_container_are_those_of_docker_run() -> None:
    assert [*hand.host_flags(HOST)] == [
        *("--network", "host", "--ipc", "private", "--shm-size", "34359738368", "--ulimit", "stack=67108864:67108864"),
        *("--volume", "/models/m:/models/m:ro", "--volume", "/var/cache/vllm:/root/.cache"),
        *("--device", "nvidia.com/gpu=GPU-1"),
    ]


def test_options_of_the_file_become_a_command_line() -> None:
    text = (
        "model: /models/m\nport: 8000\nheadless: true\nenforce-eager: false\ncompilation-config: {pass_config: {a: 1}}"
    )
    assert [*hand.serve_flags(yaml.safe_load(text))] == [
        *("/models/m", "--port", "8000", "--headless", "--compilation-config", '{"pass_config": {"a": 1}}'),
    ]


def test_ours_is_within_the_spread_only_between_the_slowest_and_the_fastest_start_by_hand() -> None:
    ours = [{"output_tokens_per_s": 100.0}, {"output_tokens_per_s": 104.0}]
    spread = [{"output_tokens_per_s": 90.0}, {"output_tokens_per_s": 110.0}]
    assert hand.compared(ours, spread)["output_tokens_per_s"] == {
        "clusterctl": [100.0, 104.0], "by_hand": [90.0, 110.0], "ratio": 1.02, "within_spread": True,
    }  # fmt: skip
    assert not hand.compared(ours, spread[1:])["output_tokens_per_s"]["within_spread"]
    assert hand.compared(ours, []) == {}
