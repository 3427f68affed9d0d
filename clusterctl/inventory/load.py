"""Load an inventory, or report everything that is wrong with it at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from clusterctl.errors import InventoryError, Problem
from clusterctl.inventory.explain import validate
from clusterctl.inventory.issue import Issue, KeyPath, path_text, shown
from clusterctl.inventory.model import Inventory, Ssh
from clusterctl.inventory.raw import dig, items
from clusterctl.inventory.rules.all import Rule, broken_rules
from clusterctl.inventory.source import Source, read_source


def load_inventory(path: Path, rules: Sequence[Rule] = ()) -> Inventory:
    """The inventory in the file, its paths made absolute. Raises InventoryError with every problem, in file order.

    `rules` are those that need to know more than the inventory does, such as the codes of findings, or a mode's ports.
    """
    source = read_source(path)
    inventory, mistakes = validate(source.data)
    broken = [*broken_rules(source.data, rules), *unknown_homes(source.data)]
    issues = without_repeats(source.issues, broken, mistakes)
    if issues or inventory is None:
        raise InventoryError(in_file_order(path, source, issues))
    return with_absolute_paths(inventory, path.absolute().parent)


def without_repeats(unreadable: Sequence[Issue], rules: Sequence[Issue], mistakes: Iterable[Issue]) -> list[Issue]:
    """One cause, one problem: a value that could not be read has no type, and a rule knows more than a type."""
    lost = {issue.path for issue in unreadable}
    rules = [issue for issue in rules if issue.path not in lost]
    reported = lost | {issue.path for issue in rules}
    mistakes = [issue for issue in mistakes if issue.path not in reported]
    return [*unreadable, *rules, *mistakes]


def in_file_order(path: Path, source: Source, issues: Iterable[Issue]) -> list[Problem]:
    """The issues as problems, from the top of the file to its end."""
    problems = [
        Problem(str(path), source.line(issue), path_text(issue.path), issue.message, issue.hint) for issue in issues
    ]
    return sorted(problems, key=lambda problem: problem.line)


def path_values(data: object) -> Iterator[tuple[KeyPath, str]]:
    """Every path on the operator's machine that the file names."""
    places: list[KeyPath] = [("ssh", name) for name in ("key", "known_hosts", "config")]
    places += [("nodes", index, "key") for index in range(len(items(dig(data, "nodes"))))]
    places += [("ray", "token_file"), ("serve", "api_key_file")]
    for place in places:
        value = dig(data, *place)
        if isinstance(value, str):
            yield place, value


def unknown_homes(data: object) -> Iterator[Issue]:
    """Paths that cannot be made absolute."""
    for place, value in path_values(data):
        if not value.strip():
            yield Issue(place, "is empty; expected a path", "remove the key to get the default")
            continue
        try:
            Path(value).expanduser()
        except RuntimeError:
            yield Issue(place, f"{shown(value, place)} is in the home of a user that does not exist on this machine")


def with_absolute_paths(inventory: Inventory, directory: Path) -> Inventory:
    """The inventory with every path on the operator's machine absolute, read from the inventory's own directory."""
    token_file = absolute(inventory.ray.token_file, directory)
    api_key_file = absolute(inventory.serve.api_key_file, directory)
    ssh = inventory.ssh.model_copy(
        update={
            "known_hosts": absolute(inventory.ssh.known_hosts, directory),
            "config": absolute(inventory.ssh.config, directory),
        }
    )
    return inventory.model_copy(
        update={
            "ssh": with_absolute_key(ssh, directory),
            "nodes": tuple(with_absolute_key(node, directory) for node in inventory.nodes),
            "serve": inventory.serve.model_copy(update={"api_key_file": api_key_file}),
            "ray": inventory.ray.model_copy(update={"token_file": token_file}),
        }
    )


AnySsh = TypeVar("AnySsh", bound=Ssh)


def with_absolute_key(ssh: AnySsh, directory: Path) -> AnySsh:
    """The same with its key's path absolute."""
    return ssh.model_copy(update={"key": absolute(ssh.key, directory)})


def absolute(path: Path | None, directory: Path) -> Path | None:
    """The path, ~ expanded, read from `directory`."""
    return None if path is None else directory / path.expanduser()
