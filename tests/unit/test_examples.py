"""Every command's `--help` ends with examples that the command line would take."""

from __future__ import annotations

import re
import shlex

import click
import pytest
from click.testing import CliRunner

from clusterctl.cli.examples import EXAMPLES
from clusterctl.cli.main import cli
from clusterctl.cli.reference import contexts

COMMANDS = [context.command_path.split(" ")[1:] for context in contexts(cli, "clusterctl")]
LINES = [(path, line) for path, lines in EXAMPLES.items() for line in lines]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_shows_examples_as_they_are_typed(words: list[str]) -> None:
    shown = CliRunner().invoke(cli, [*words, "--help"], prog_name="clusterctl").output
    lines = [line.strip() for line in shown.partition("Examples:\n")[2].strip("\n").splitlines()]
    assert lines == list(EXAMPLES[" ".join(words)]), "no line is broken"


def test_no_example_is_of_a_command_that_is_not_there() -> None:
    assert set(EXAMPLES) == {" ".join(words) for words in COMMANDS}


@pytest.mark.parametrize(("path", "line"), LINES, ids=[f"{path}: {line}" for path, line in LINES])
def test_an_example_is_of_its_command_and_parses(path: str, line: str) -> None:
    found = [parsed(argv) for argv in command_lines(line)]
    assert found
    assert any(f"{each} ".startswith(f"{path} ".lstrip()) for each in found)


def command_lines(line: str) -> list[list[str]]:
    """The words behind each `clusterctl` of a shell's line."""
    parts = re.findall(r"\bclusterctl\b([^|>()]*)", line)
    return [shlex.split(part) for part in parts]


def parsed(argv: list[str]) -> str:
    """The command's path; raises click's error for what it does not take. Nothing is run."""
    context: click.Context = cli.make_context("clusterctl", list(argv))
    command: click.Command = cli
    path = []
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None and name is not None
        command, context = found, found.make_context(name, rest, parent=context)
        path.append(name)
    return " ".join(path)
