"""Commands in the documentation exist, with the options that they are shown with; the generated page is fresh."""

import itertools
import re
import shlex
from collections.abc import Iterator

import click
import pytest

from clusterctl.cli.main import cli
from clusterctl.cli.reference import reference_markdown
from tests.docs.pages import PAGES, ROOT, blocks

SEPARATORS = frozenset(";|&()<>\n")
PREFIXES = frozenset({"sudo", "exec", "time", "nohup", "if", "then", "else", "do", "!"})


def simple_commands(script: str) -> Iterator[list[str]]:
    """The simple commands of a shell script, as words; redirections' targets are commands of their own."""
    joined = re.sub(r"\\\n", " ", script)
    for line in joined.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if set(word) <= SEPARATORS:
                yield words
                words = []
            else:
                words.append(word)
        yield words


def invocations(script: str) -> Iterator[list[str]]:
    """Arguments of every invocation of clusterctl."""
    for command in simple_commands(script):
        words = list(itertools.dropwhile(lambda word: word in PREFIXES or re.fullmatch(r"[A-Z_]+=.*", word), command))
        if words and words[0].rpartition("/")[2] == "clusterctl":
            yield words[1:]
        elif re.fullmatch(r"(.*/)?python3?", words[0] if words else "") and words[1:3] == ["-m", "clusterctl"]:
            yield words[3:]


DOCUMENTED = sorted(
    {
        (str(page.relative_to(ROOT)), shlex.join(argv))
        for page in PAGES
        for block in blocks(page)
        if block.language == "bash"
        for argv in invocations(block.text)
    }
)


def parse(command: click.Command, name: str, argv: list[str], parent: click.Context | None = None) -> None:
    """Parse a command line to its end without running anything. Raises click's usage errors."""
    if not isinstance(command, click.Group):
        command.make_context(name, argv, parent=parent)
        return
    context = click.Context(command, info_name=name, parent=parent, **command.context_settings)
    _, rest, _ = command.make_parser(context).parse_args(list(argv))
    if not rest:
        raise click.UsageError(f"{name}: no command")
    child = command.get_command(context, rest[0])
    if child is None:
        raise click.UsageError(f"{name}: no command {rest[0]!r}")
    parse(child, rest[0], rest[1:], context)


def test_there_is_something_to_test() -> None:
    commands = {argv.split()[0] for _, argv in DOCUMENTED}
    assert {"up", "down", "plan", "status", "logs", "lab", "schema"} <= commands


@pytest.mark.parametrize(("page", "line"), DOCUMENTED)
def test_documented_command_lines_parse(page: str, line: str) -> None:
    parse(cli, "clusterctl", shlex.split(line))


@pytest.mark.parametrize("line", ["frobnicate", "plan --frob", "lab power-off", "status --interval 0", ""])
def test_wrong_command_lines_would_be_found(line: str) -> None:
    with pytest.raises(click.UsageError):
        parse(cli, "clusterctl", shlex.split(line))


def test_words_are_found_behind_prefixes_and_operators() -> None:
    script = "A=1 sudo clusterctl plan --json \\\n  --detailed-exitcode > out && clusterctl up | jq .x"
    assert list(invocations(script)) == [["plan", "--json", "--detailed-exitcode"], ["up"]]


def test_every_command_is_in_the_reference_and_the_page_is_fresh() -> None:
    page = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    assert page == reference_markdown(), "run: python -m clusterctl.cli.reference > docs/reference/cli.md"


def test_documented_make_targets_exist() -> None:
    makefile = ROOT / "Makefile"
    targets = set(re.findall(r"^([a-z-]+):", makefile.read_text(encoding="utf-8"), re.MULTILINE))
    shown = {
        words[1]
        for page in PAGES
        for block in blocks(page)
        if block.language == "bash"
        for words in simple_commands(block.text)
        if len(words) > 1 and words[0] == "make"
    }
    assert {"demo", "test"} <= shown <= targets


def test_documented_environment_variables_are_read() -> None:
    """Those of the operator's machine; the agent's own are inside containers."""
    source = [path for path in (ROOT / "clusterctl").rglob("*.py") if not {"agent", "inside"} & set(path.parts)]
    read = {name for path in source for name in re.findall(r'"(CLUSTERCTL_[A-Z_]+)"', path.read_text(encoding="utf-8"))}
    reference = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(CLUSTERCTL_[A-Z_]+)`", reference)) == read
