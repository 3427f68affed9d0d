"""What is reported about a wrong inventory. The sentences are the product: problems.yaml has them word for word."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from clusterctl.errors import ExitCode, InventoryError
from clusterctl.findings.waivers import waivers
from clusterctl.inventory import model
from clusterctl.inventory.explain import PATTERN_MEANS
from clusterctl.inventory.load import load_inventory
from clusterctl.inventory.owned import OWNED_OPTIONS
from clusterctl.inventory.schema import json_schema
from clusterctl.modes.all import MODES
from clusterctl.modes.rules import mode_rules

HERE = Path(__file__).parent
BASE = (HERE / "problems.base.yaml").read_text(encoding="utf-8")
CASES: list[dict[str, Any]] = yaml.safe_load((HERE / "problems.yaml").read_text(encoding="utf-8"))


def changed(case: dict[str, Any]) -> str:
    text: str = case.get("text", BASE)
    for old, new in case.get("change", {}).items():
        assert old in text, f"{case['name']}: {old!r} is not in problems.base.yaml"
        text = text.replace(old, new, 1)
    return text


def problems(path: Path) -> list[str]:
    with pytest.raises(InventoryError) as caught:
        load_inventory(path, (waivers, mode_rules))
    assert caught.value.exit_code == ExitCode.USAGE
    return [str(problem) for problem in caught.value.problems]


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_problems_are_all_reported_word_for_word(case: dict[str, Any]) -> None:
    Path("inventory.yaml").write_text(changed(case), encoding="utf-8")
    expected = [f"inventory.yaml:{problem}" for problem in case["problems"]]
    assert problems(Path("inventory.yaml")) == expected


def test_every_case_has_its_own_name() -> None:
    names = [case["name"] for case in CASES]
    assert len(set(names)) == len(names)


def test_the_base_of_the_cases_is_right() -> None:
    Path("inventory.yaml").write_text(BASE, encoding="utf-8")
    assert load_inventory(Path("inventory.yaml")).head_name == "gpu1"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"version: 1\nname: caf\xe9\n", "inventory.yaml:2: the file is not UTF-8 text (byte 0xe9) (save it as UTF-8)"),
        ("a: 1\n".encode("utf-16"), "inventory.yaml:1: the file is not UTF-8 text (byte 0xff) (save it as UTF-8)"),
        (b"version: 1\n\n\x00\n", "inventory.yaml:3: the file contains a control character (U+0000)"),
        (b"#" * (256 * 1024 + 1), "inventory.yaml:1: the file is larger than 256 KiB, too large for an inventory"),
        (b"\xef\xbb\xbf", "inventory.yaml:1: the file is empty (copy inventory.example.yaml to start with)"),
        (b"a:\r\n  b: 1\r\n c: 2\r\n", "inventory.yaml:3: not valid YAML: expected <block end>, but found"
         " '<block mapping start>' (while parsing a block mapping, which starts on line 1)"),
        ("a: 1\nb: \"\u2028\"\n\tx: 1\n".encode(), "inventory.yaml:3: YAML cannot be indented with tabs (use spaces)"),
        (b"%YAML 1." + b"9" * 5000 + b"\n--- {}\n", "inventory.yaml:1: not valid YAML: a number is out of range"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_yaml(content: bytes, problem: str) -> None:
    Path("inventory.yaml").write_bytes(content)
    assert problems(Path("inventory.yaml")) == [problem]


def test_a_billion_laughs_are_refused_at_the_first() -> None:
    lines = [
        "a: &a [x, x]",
        *(f"{new}: &{new} [*{old}, *{old}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)),
    ]
    Path("inventory.yaml").write_text("\n".join(lines), encoding="utf-8")
    assert problems(Path("inventory.yaml")) == [
        "inventory.yaml:1: anchors and aliases (&a) are not supported (repeat the value instead)"
    ]


def test_a_file_that_is_not_there() -> None:
    hint = "clusterctl init writes one, or copy inventory.example.yaml"
    assert problems(Path("none.yaml")) == [f"none.yaml:1: no such file ({hint})"]


def test_a_directory() -> None:
    Path("inventory.yaml").mkdir()
    assert problems(Path("inventory.yaml")) == [
        "inventory.yaml:1: this is a directory, not a file (give the file inside it)"
    ]


def test_a_file_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything, and tests may run as root
    assert problems(Path("inventory.yaml")) == [
        "inventory.yaml:1: permission denied (check its owner and mode with ls -l)"
    ]


def test_a_link_to_itself() -> None:
    Path("inventory.yaml").symlink_to("inventory.yaml")
    assert problems(Path("inventory.yaml")) == [
        "inventory.yaml:1: cannot read the file: Too many levels of symbolic links"
    ]


def test_a_name_that_no_file_can_have() -> None:
    assert problems(Path("a\0b")) == ["a\0b:1: cannot read the file: embedded null byte"]


def test_values_of_environment_are_never_shown() -> None:
    secret = "hunter2hunter2"
    env = f'env: {{A: [{secret}], B: {{{secret}: 1}}, HF_TOKEN: {secret}, C: "{secret}\\0", D: !!int {secret}}}'
    Path("inventory.yaml").write_text(BASE.replace("image: vllm:1", f"image: vllm:1\n  {env}"), encoding="utf-8")
    found = problems(Path("inventory.yaml"))
    assert len(found) == 5
    assert not any(secret in problem for problem in found)


def test_every_pattern_of_the_model_has_words() -> None:
    patterns = {value for name, value in vars(model).items() if name.endswith("_PATTERN")}
    assert patterns == set(PATTERN_MEANS)
    assert patterns_in(json_schema()) <= set(PATTERN_MEANS)


def patterns_in(schema: object) -> set[str]:
    if isinstance(schema, list):
        return {pattern for inner in schema for pattern in patterns_in(inner)}
    if not isinstance(schema, dict):
        return set()
    own = {schema["pattern"]} if isinstance(schema.get("pattern"), str) else set()
    keys = set(schema.get("patternProperties", {}))
    return own | keys | {pattern for inner in schema.values() for pattern in patterns_in(inner)}


def test_every_option_of_clusterctl_says_what_to_do_instead() -> None:
    for mode in MODES:
        assert not set(mode.owned) & set(OWNED_OPTIONS), "once, in one place"
        assert all({**OWNED_OPTIONS, **mode.owned}.values())
