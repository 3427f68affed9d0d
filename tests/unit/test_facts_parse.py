"""From the probe's output to facts: captured machines (fixtures/probe), cases (fixtures/facts.yaml), and garbage."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from clusterctl.facts import gather, model_files, parse
from clusterctl.facts.fact import Unknown
from clusterctl.facts.model_files import ModelFiles
from clusterctl.facts.records import Gpu, GpuProcess, InterfaceAddress, Listener
from tests.unit.support import FIXTURES

CASES: list[dict[str, Any]] = yaml.safe_load((FIXTURES / "facts.yaml").read_text(encoding="utf-8"))
FACTS: Mapping[str, Callable[[Mapping[str, parse.Section]], Any]] = {
    name: getattr(parse, name)
    for name in ("memory_available", "addresses", "listeners", "gpus", "gpu_processes", "infiniband")
} | {"model": model_files.model}
SECTIONS = (
    *("hostname", "kernel", "memory", "addresses", "tcp", "tcp6", "sockets", "gpus", "gpu_processes", "infiniband"),
    *("rdma", "clock_begin", "clock_end", "fib_trie", "machine", "os_release", "limits", "engine_process"),
    *(
        "filesystems",
        "interfaces",
        "routes",
        "routes_to_peers",
        "hostname_addresses",
        "gpu_topology",
        "nvidia_module",
        "nvidia_state",
        "acs",
        "rocm",
        "cdi",
        "amd_render",
        "gpu_process_groups",
    ),
    *("engine_socket", "podman_socket", "services", "model_files", "model_single", "model_config", "model_params"),
    *("model_index", "model_index_mistral", "model_index_bin"),
    *(f"model_{name}" for name in ("directory", "links", "dangling", "pointers", "unfinished", "digests", "headers")),
    *("model_snapshots", "model_tools"),
)


def captured(name: str) -> Mapping[str, parse.Section]:
    return parse.sections((FIXTURES / "probe" / f"{name}.txt").read_text(encoding="utf-8"))


def framed(name: str, section: Any) -> str:
    return f"@@begin {name}\n{section['text']}\n\n@@end {name} {section.get('code', 0)}\n"


def shown(value: object) -> object:  # noqa: PLR0911 (one a kind)
    """A fact as the cases write it."""
    match value:
        case tuple():
            return ", ".join(str(shown(item)) for item in value)
        case InterfaceAddress():
            return f"{value.interface} {value.address}"
        case Listener():
            return f"{value.address}:{value.port}" + (f" {value.process}" if value.process else "")
        case Gpu():
            return f"{value.index} {value.name} {value.uuid} {value.memory_used_mib}/{value.memory_total_mib}"
        case GpuProcess():
            return f"{value.gpu_uuid} {value.pid} {value.name} {value.memory_mib}"
        case ModelFiles():
            names = " ".join(f"{n!r}={size}" if " " in n else f"{n}={size}" for n, size in value.sizes.items())
            return ", ".join([*([names] if names else []),
                              f"config {shown(value.config)}", f"shards {shown(value.index_shards)}"])  # fmt: skip
        case Unknown():
            return f"Unknown {value.reason.split(': ')[0]}"
    return value


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_section_becomes_a_fact(case: dict[str, Any]) -> None:
    found = parse.sections("".join(framed(name, section) for name, section in case["sections"].items()))
    fact = FACTS[case["fact"]](found)
    expected = case["expect"]
    if isinstance(expected, dict):
        assert isinstance(fact, Unknown), f"{fact} is not unknown"
        for words in expected["unknown"]:
            assert words in fact.reason
    else:
        assert shown(fact) == expected


def test_a_machine_without_gpus() -> None:
    found = captured("debian12-no-gpu")
    assert parse.text(found, "hostname") == "server"
    assert parse.text(found, "kernel") == "6.18.44"
    assert parse.memory_available(found) == 19326152 * 1024
    assert shown(parse.addresses(found)) == "lo 127.0.0.1, eth0 192.0.2.2, br0 10.77.0.254, br1 10.77.1.254"
    assert shown(parse.listeners(found)) == "0.0.0.0:22"
    assert parse.gpus(found) is None
    assert parse.gpu_processes(found) is None
    assert parse.infiniband(found) is None
    assert found["engine_socket"].exit_code == parse.ABSENT


def test_the_head_of_a_cluster_that_starts() -> None:
    found = captured("debian12-lab-head-running")
    listeners = parse.listeners(found)
    assert isinstance(listeners, tuple)
    named = {(item.address, item.port): item.process for item in listeners}
    assert named["10.77.1.1", 6382] == "ray::RuntimeEnv (pid 1486)"
    assert named["10.77.1.1", 10001] == "python3 (pid 1398)"  # from ::ffff:10.77.1.1 in tcp6
    assert named["::", 6379] == "gcs_server (pid 1364)"
    assert not any(port == 0xE9A4 for _, port in named), "a peer's port of an open connection is no listener"
    model = model_files.model(found)
    assert isinstance(model, ModelFiles)
    assert model.sizes["model-00002-of-00003.safetensors"] == 592776
    assert model.index_shards == tuple(f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3))
    assert isinstance(model.config, dict)
    assert model.config["num_key_value_heads"] == 2
    assert found["engine_socket"].exit_code == 0


def test_two_gpus_one_of_them_held() -> None:
    found = captured("ubuntu24-two-h200")
    first, second = "GPU-00000000-1111-2222-3333-444444444444", "GPU-55555555-6666-7777-8888-999999999999"
    assert shown(parse.gpus(found)) == f"0 NVIDIA H200 {first} 4/143771, 1 NVIDIA H200 {second} 1551/143771"
    assert shown(parse.gpu_processes(found)) == f"{second} 875 python3 1542"
    assert parse.infiniband(found) == ("rdma_cm",)
    assert shown(parse.addresses(found)) == "lo 127.0.0.1, eth0 192.0.2.2"  # no iproute2: from the kernel's tables
    assert shown(parse.listeners(found)) == "0.0.0.0:22"  # ss is not needed to see ports
    assert found["engine_socket"].exit_code == parse.COMMAND_NOT_FOUND


@pytest.mark.parametrize("name", ["debian12-no-gpu", "debian12-lab-head-running", "ubuntu24-two-h200"])
def test_output_cut_anywhere_says_what_is_missing_instead_of_lying(name: str) -> None:
    whole = (FIXTURES / "probe" / f"{name}.txt").read_text(encoding="utf-8")
    full = parse.sections(whole)
    for end in range(0, len(whole), 97):
        cut = parse.sections(whole[:end])
        for fact, read in FACTS.items():
            value = read(cut)
            assert isinstance(value, Unknown) or shown(value) == shown(read(full)) or fact in ("listeners", "model")


text = st.text(st.sampled_from("@begind \n0123456789.:,[]{}\"'kBN/A inet %\\é\0"), max_size=200)
section = st.tuples(st.one_of(text, st.text(max_size=80)), st.sampled_from(["0", "0", "0", "1", "44", "9" * 5000]))


@given(st.dictionaries(st.sampled_from(SECTIONS), section), st.text(max_size=20))
def test_garbage_never_raises(said: dict[str, tuple[str, str]], rest: str) -> None:
    output = "".join(framed(name, {"text": body, "code": code}) for name, (body, code) in said.items())
    found = parse.sections(output + rest)
    for read in FACTS.values():
        read(found)
    parse.text(found, "hostname")


numbers = st.sampled_from(["0", "7", "-1", "65536", "9" * 30, "9" * 5000, "", "x", "0A", "[N/A]", "٣"])
ROWS = {
    "memory": "MemAvailable: {} kB",
    "addresses": "{}: eth0 inet {}.{}.0.1/24",
    "tcp": "head\n {}: {}:{} 0:0 0A",
    "tcp6": "head\n {}: 0000000000000000FFFF0000{}:{} 0:0 0A",
    "sockets": 'LISTEN 0 5 0.0.0.0:{} 0.0.0.0:* users:(("a{}",pid={},fd=1))',
    "gpus": "{}, name, GPU-a, {}, {}, 0000:01:00.0, 580.95.05, Default, Disabled, 0",
    "gpu_processes": "GPU-a, {}, {}, {}",
    "model_files": "{} ./a{}{}",
    "model_config": '{{"a": {}{}{}}}',
    "model_index": "{}}}\n{}{}",
    "model_headers": "{} {} {}\ta.safetensors",
}


@given(st.tuples(numbers, numbers, numbers))
def test_well_formed_rows_with_wild_values_never_raise(values: tuple[str, str, str]) -> None:
    filled = {name: {"text": row.format(*values)} for name, row in ROWS.items()}
    found = parse.sections(
        "".join(framed(name, body) for name, body in {"model_files": {"text": ""}, **filled}.items())
    )
    for read in FACTS.values():
        read(found)


def test_deeply_nested_json_is_unknown_not_a_crash() -> None:
    body = {
        "model_files": {"text": ""},
        "model_config": {"text": "[" * 200_000},
        "model_index": {"text": "", "code": 44},
    }
    model = model_files.model(parse.sections("".join(framed(name, said) for name, said in body.items())))
    assert isinstance(model, ModelFiles)
    assert isinstance(model.config, Unknown)


def probe(model: Path | str, **environment: str) -> Mapping[str, parse.Section]:
    done = subprocess.run(
        ["sh", "-s", "--", str(model)],
        input=gather.PROBE,
        capture_output=True,
        env={**os.environ, **environment},
        check=False,
        timeout=60,
    )
    assert done.stderr == b""
    return parse.sections(done.stdout.decode())


def test_the_probe_of_this_machine(tmp_path: Path) -> None:
    model = tmp_path / "a model's dir"
    model.mkdir()
    (model / "config.json").write_text('{"architectures": ["ä"]}', encoding="utf-8")
    (model / "model.safetensors").write_bytes(b"1234")
    (model / "linked.safetensors").symlink_to("model.safetensors")
    (model / "gone.safetensors").symlink_to("nowhere")
    found = probe(model)
    assert set(found) == set(SECTIONS)
    files = model_files.model(found)
    assert isinstance(files, ModelFiles)
    assert {k: v for k, v in files.sizes.items() if "safetensors" in k} == {
        "model.safetensors": 4,
        "linked.safetensors": 4,
    }
    assert files.config == {"architectures": ["ä"]}
    assert files.index_shards is None
    assert parse.text(found, "hostname") == Path("/proc/sys/kernel/hostname").read_text(encoding="ascii").strip()
    assert isinstance(parse.memory_available(found), int)
    assert isinstance(parse.listeners(found), tuple)


def test_the_probe_tells_an_absent_model_from_one_it_may_not_enter(tmp_path: Path) -> None:
    assert model_files.model(probe(tmp_path / "nowhere")) is None
    file = tmp_path / "file"
    file.touch()
    assert isinstance(model_files.model(probe(file)), Unknown)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (
            "echo 'NVIDIA-SMI has failed because it could not talk to the driver.'; exit 9",
            "exit code 9: NVIDIA-SMI has",
        ),
        ("echo '0, NVIDIA H200, GPU-a, 143771, 4'; echo lost >&2; exit 15", "exit code 15"),
        ("kill -9 $$", "exit code 137"),
    ],
)
def test_a_failing_nvidia_smi_is_unknown_with_its_exit_code(tmp_path: Path, script: str, expected: str) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    tool.chmod(0o755)
    gpus = parse.gpus(probe(tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}"))
    assert isinstance(gpus, Unknown)
    assert expected in gpus.reason


H100_ROW = "{index}, NVIDIA H100 80GB HBM3, GPU-{index}, 81559, 4, 00000000:{index}B:00.0, 570.86, Default, Disabled, 0"


@pytest.mark.parametrize(
    ("lines", "code", "gpus", "remarks"),
    [
        ([], 0, 2, ()),
        (["WARNING: infoROM is corrupted at gpu 0000:B3:00.0"], 14, 2, ("infoROM is corrupted", "exit code 14")),
        (["WARNING: infoROM is corrupted at gpu 0000:B3:00.0"], 0, 2, ("infoROM is corrupted",)),
        (["2, [GPU is lost]"], 0, 2, ("GPU is lost",)),
        (
            ["Unable to determine the device handle for GPU2: 0000:C1:00.0: Unknown Error"],
            255,
            2,
            ("Unknown Error", "255"),
        ),
        (["", "  "], 0, 2, ()),
    ],
)
def test_one_odd_line_of_nvidia_smi_voids_no_table(
    lines: list[str], code: int, gpus: int, remarks: tuple[str, ...]
) -> None:
    rows = [H100_ROW.format(index=index) for index in range(2)]
    for output in ([*rows, *lines], [*lines, *rows]):
        found = {"gpus": parse.Section("\n".join(output), code)}
        read = parse.gpus(found)
        assert isinstance(read, tuple)
        assert [gpu.index for gpu in read] == list(range(gpus))
        said = parse.gpu_remarks(found)
        assert len(said) == len(remarks)
        assert all(remark in text for remark, text in zip(remarks, said, strict=True))


def test_nvidia_smi_without_a_row_is_unknown_with_its_words() -> None:
    failed = {"gpus": parse.Section("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9)}
    assert isinstance(found := parse.gpus(failed), Unknown)
    assert "couldn't communicate" in found.reason
    assert parse.gpu_remarks(failed) == ()
    assert isinstance(parse.gpus({"gpus": parse.Section("hello", 0)}), Unknown)
    assert isinstance(parse.gpus({}), Unknown)
    assert parse.gpus({"gpus": parse.Section("", 44)}) is None


def test_processes_that_can_be_read_count_too() -> None:
    odd = "GPU-1, 4711, python3, 500\nWARNING: infoROM is corrupted\n"
    found = parse.gpu_processes({"gpu_processes": parse.Section(odd, 0)})
    assert isinstance(found, tuple)
    assert [process.pid for process in found] == [4711]
