"""Whatever the file holds, loading ends with an inventory or with problems that have a place and a sentence."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterctl.errors import InventoryError
from clusterctl.findings.waivers import waivers
from clusterctl.inventory.load import load_inventory
from clusterctl.inventory.model import Inventory
from clusterctl.modes.rules import mode_rules

ROOT = Path(__file__).parents[2]
EXAMPLE = yaml.safe_load(
    re.sub(r"(?m)^(\s*)#(?=[^\s#])", r"\1", (ROOT / "inventory.example.yaml").read_text(encoding="utf-8"))
)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.dates(),
    st.sampled_from(["auto", "gpu1", "10.77.0.300", "::1", "fd00::/8", "10.0.0.1/8", "/", "~x", "no", "1_0", "-1"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=8), st.integers(), st.booleans()), inner, max_size=3),
    ),
    max_leaves=6,
)


def loaded(path: Path) -> Inventory | tuple[str, ...]:
    """The inventory, or its problems, each of which must have its place and its sentence."""
    try:
        return load_inventory(path, (waivers, mode_rules))
    except InventoryError as error:
        assert error.problems
        last = len(re.split(rb"\r\n|\r|\n", path.read_bytes().removesuffix(b"\n")))
        lines = [problem.line for problem in error.problems]
        assert lines == sorted(lines)
        assert 1 <= lines[0] <= lines[-1] <= last
        for problem in error.problems:
            assert problem.message.strip()
            assert "\n" not in str(problem).removeprefix(str(path))
        return tuple(str(problem) for problem in error.problems)


def check(tmp_path: Path, content: bytes) -> Inventory | tuple[str, ...]:
    path = tmp_path / "inventory.yaml"
    path.write_bytes(content)
    first = loaded(path)
    assert loaded(path) == first
    return first


@QUICK
@given(content=st.binary(max_size=200))
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    check(tmp_path, content)


@QUICK
@given(content=st.text(alphabet="ab1:-?[]{},&*!|>'\"%@`#~ \n\t\\U", max_size=60))
def test_any_text_of_yaml_s_signs(tmp_path: Path, content: str) -> None:
    check(tmp_path, content.encode())


@QUICK
@given(content=st.text(max_size=60))
def test_any_text_in_a_known_place(tmp_path: Path, content: str) -> None:
    check(tmp_path, f"version: 1\ncluster: {content}\n".encode(errors="surrogatepass"))


@QUICK
@given(data=VALUES)
def test_any_structure(tmp_path: Path, data: object) -> None:
    check(tmp_path, yaml.safe_dump(data).encode())


@QUICK
@given(data=st.fixed_dictionaries({}, optional=dict.fromkeys(EXAMPLE, VALUES)))
def test_any_structure_under_known_keys(tmp_path: Path, data: object) -> None:
    check(tmp_path, yaml.safe_dump(data).encode())


def places(data: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    items = enumerate(data) if isinstance(data, list) else data.items() if isinstance(data, dict) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


PLACES = sorted(places(EXAMPLE), key=repr)


def parent_of(data: Any, place: tuple[str | int, ...]) -> Any:
    for part in place[:-1]:
        data = data[part]
    return data


def mutated(action: str, place: tuple[str | int, ...], value: object) -> str:
    """The example with one node deleted, replaced, renamed or duplicated."""
    data = copy.deepcopy(EXAMPLE)
    parent: Any = parent_of(data, place)
    key: Any = place[-1]
    if action == "replace":
        parent[key] = value
    elif action == "delete":
        del parent[key]
    elif isinstance(parent, list):
        parent.append(copy.deepcopy(parent[key]))
    else:
        content = parent.pop(key)
        # Two keys of one name cannot be in a dict: the mark is made into the name again in the text.
        parent[f"{key}x"] = content
        if action == "duplicate":
            parent["SAME-NAME"] = content
            parent[key] = parent.pop(f"{key}x")
    text = yaml.dump(data, Dumper=NoAliases, sort_keys=False)
    return text.replace("SAME-NAME", str(key))


class NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


@settings(QUICK, max_examples=100)
@given(
    action=st.sampled_from(["replace", "delete", "rename", "duplicate"]), place=st.sampled_from(PLACES), value=VALUES
)
def test_any_mutation_of_the_example(tmp_path: Path, action: str, place: tuple[str | int, ...], value: object) -> None:
    result = check(tmp_path, mutated(action, place, value).encode())
    if action in ("rename", "duplicate") and isinstance(place[-1], str) and place[:2] != ("serve", "options"):
        assert isinstance(result, tuple), "an unknown key or a key given twice must be a problem"


@QUICK
@given(place=st.sampled_from(PLACES), value=VALUES)
def test_a_mistake_does_not_hide_another(tmp_path: Path, place: tuple[str | int, ...], value: object) -> None:
    text = "zzz: 1\n" + mutated("replace", place, value)
    result = check(tmp_path, text.encode())
    assert isinstance(result, tuple)
    assert any(":1: zzz: unknown key" in problem for problem in result)
