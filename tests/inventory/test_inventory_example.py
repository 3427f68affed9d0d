"""inventory.example.yaml is tested documentation: complete, true, and valid for editors too."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from clusterctl.findings.waivers import waivers
from clusterctl.inventory.explain import model_in
from clusterctl.inventory.load import load_inventory
from clusterctl.inventory.model import Inventory, Ulimit
from clusterctl.inventory.reference import reference_markdown, sections
from clusterctl.inventory.schema import json_schema
from clusterctl.inventory.source import parse
from clusterctl.modes.rules import mode_rules

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "inventory.example.yaml"
TEXT = EXAMPLE.read_text(encoding="utf-8")
SETTING = re.compile(r"^(\s*)#(?=[^\s#])", re.MULTILINE)
"""A setting with its default is commented out by a # without a space; a # with a space explains."""


EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.yaml"))


def uncommented() -> str:
    return SETTING.sub(r"\1", TEXT)


def key_paths(data: object, path: str = "") -> Iterator[str]:
    if isinstance(data, list):
        for item in data:
            yield from key_paths(item, f"{path}[]")
    elif isinstance(data, dict):
        for key, value in data.items():
            place = f"{path}.{key}" if path else str(key)
            yield place
            yield from key_paths(value, place)


def test_the_example_loads() -> None:
    inventory = load_inventory(EXAMPLE, (waivers, mode_rules))
    assert [node.name for node in inventory.nodes] == ["gpu1", "gpu2"]
    assert (inventory.accelerator.kind, inventory.accelerator.per_node) == ("nvidia", 8)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_in_the_docs_load_and_validate(path: Path) -> None:
    inventory = load_inventory(path, (waivers, mode_rules))
    assert len(inventory.nodes) == 2
    text = path.read_text(encoding="utf-8")
    Draft202012Validator(json_schema()).validate(parse(text).data)
    pages = (ROOT / "docs" / "how-to").glob("*.md")
    assert any(path.name in page.read_text(encoding="utf-8") for page in pages), "a page says how to use it"


def test_every_field_is_in_the_example() -> None:
    there = set(key_paths(yaml.safe_load(uncommented())))
    fields = {
        section.field_path(name)
        for section in sections()
        if section.model is not Ulimit
        for name in section.model.model_fields
    }
    assert fields - there == set()
    assert re.search(r"# .*\{soft: \d+, hard: \d+\}", TEXT), "the long form of a limit is explained"


def test_uncommenting_every_default_changes_nothing(tmp_path: Path) -> None:
    assert uncommented().count("\n") == TEXT.count("\n")
    path = tmp_path / "inventory.yaml"
    path.write_text(uncommented(), encoding="utf-8")
    assert load_inventory(path, (waivers, mode_rules)) == load_inventory(EXAMPLE, (waivers, mode_rules))


@pytest.mark.parametrize("number", [match.start() for match in SETTING.finditer(TEXT)])
def test_uncommenting_any_one_default_changes_nothing(number: int, tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_text(TEXT[:number] + SETTING.sub(r"\1", TEXT[number:], count=1), encoding="utf-8")
    assert load_inventory(path, (waivers, mode_rules)) == load_inventory(EXAMPLE, (waivers, mode_rules))


def test_every_setting_is_explained() -> None:
    lines = TEXT.splitlines()
    second_node = range(lines.index("  - name: gpu2"), lines.index("  - name: gpu2") + 3)
    for number, line in enumerate(lines):
        is_setting = re.match(r"\s*#?[a-z][a-z0-9_-]*:|\s*- name:", line)
        group = ("#user:", "#port:", "#key:", "#jump:") if line.startswith("    ") else ("max-model-len:",)
        if is_setting and number not in second_node and not line.strip().startswith(group):
            assert re.match(r"\s*# ", lines[number - 1]) or lines[number - 1].endswith(":"), (
                f"line {number + 1}: {line}"
            )


@pytest.mark.parametrize("text", [TEXT, uncommented()], ids=["as it is", "uncommented"])
def test_the_example_validates_against_the_schema(text: str) -> None:
    # YAML 1.2, as editors and our own reader have it; for PyYAML `on` is a truth value.
    Draft202012Validator(json_schema()).validate(parse(text).data)


def test_the_schema_is_valid_and_described() -> None:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for name, part in [("Inventory", schema), *schema["$defs"].items()]:
        if name == "JsonValue":
            continue
        assert part["title"] and part["description"], name
        assert part["additionalProperties"] is False, name
        for field, content in part["properties"].items():
            # pydantic leaves out what the section's own description says already
            assert content.get("description") or "$ref" in content, f"{name}.{field}"


@pytest.mark.parametrize(
    "change",
    [
        ("user: ubuntu", "usr: ubuntu"),
        ("port: 8000", "port: 0"),
        ("#env: {}", "env: {1A: x}"),
        ("max-model", "max_model"),
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(change: tuple[str, str]) -> None:
    assert change[0] in TEXT
    assert not Draft202012Validator(json_schema()).is_valid(yaml.safe_load(TEXT.replace(*change, 1)))


def test_the_reference_is_up_to_date() -> None:
    page = ROOT / "docs" / "reference" / "inventory.md"
    regenerate = "run: python -m clusterctl.inventory.reference > docs/reference/inventory.md"
    assert page.read_text(encoding="utf-8") == reference_markdown(), regenerate


def test_the_reference_has_every_field_with_a_description() -> None:
    assert models(Inventory) == {section.model for section in sections()}
    page = reference_markdown()
    for section in sections():
        for name, field in section.model.model_fields.items():
            assert f"| `{section.field_path(name)}` |" in page
            assert field.description, f"{section.model.__name__}.{name}"


def models(root: type[BaseModel]) -> set[type[BaseModel]]:
    inner = [found for field in root.model_fields.values() if (found := model_in(field.annotation))]
    return {root}.union(*(models(found) for found in inner))


def test_paths_are_read_from_the_inventory_s_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ops")
    monkeypatch.chdir(tmp_path)
    text = TEXT.replace("  #key: null", "  key: keys/id", 1).replace("  #known_hosts: null", "  known_hosts: ~/hosts")
    text = text.replace("  #config: null", "  config: /etc/ssh/config").replace("    #key: null", "    key: ../id", 1)
    text = text.replace("  #token_file: null", "  token_file: token")
    text = text.replace("  #api_key_file: null", "  api_key_file: key")
    Path("clusters").mkdir()
    Path("clusters/demo.yaml").write_text(text, encoding="utf-8")
    inventory = load_inventory(Path("clusters/demo.yaml"))
    directory = tmp_path / "clusters"
    assert inventory.ssh.key == directory / "keys/id"
    assert inventory.ssh.known_hosts == Path("/home/ops/hosts")
    assert inventory.ssh.config == Path("/etc/ssh/config")
    assert [node.key for node in inventory.nodes] == [directory / "../id", None]
    assert inventory.ray.token_file == directory / "token"
    assert inventory.serve.api_key_file == directory / "key"
