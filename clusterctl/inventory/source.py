"""The text of an inventory as plain data that remembers its lines.

Only what JSON can hold is let through (YAML 1.2's core schema): what a value means must not depend on which version
of YAML its reader knows, and a file must not be able to grow or loop while it is read.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from yaml.composer import Composer
from yaml.error import Mark, MarkedYAMLError, YAMLError
from yaml.events import AliasEvent, StreamEndEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from clusterctl.errors import InventoryError, Problem
from clusterctl.inventory.issue import Issue, KeyPath, path_text, quoted, shown

MAX_BYTES = 256 * 1024
"""About two thousand nodes. A larger file is something else, and reading it would take longer than its message."""
MAX_DEPTH = 24
"""Levels of nesting; the model has five, `serve.options` may hold a few more."""
MAX_INT = 2**63 - 1

TAG = "tag:yaml.org,2002:"
NULL, BOOL, INT, FLOAT, STR = (TAG + name for name in ("null", "bool", "int", "float", "str"))

BOOL_FORM = re.compile(r"true|True|TRUE|false|False|FALSE")
INT_FORM = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT_FORM = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
NULL_FORM = re.compile(r"~|null|Null|NULL|")
OLD_BOOL_FORM = re.compile(r"(yes|no|on|off)", re.IGNORECASE)
"""Truth values in YAML 1.1, text in YAML 1.2."""
SWITCHES: frozenset[KeyPath] = frozenset({("rdma",), ("supervise",), ("serve", "api_key"), ("container", "cache")})
"""Fields in which such a word is itself a value: `rdma: off` means the same to a reader of either version."""
FORBIDDEN_CHARACTER = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Source:
    """What was read. A value that could not be read is None in `data`, and its path is in `issues`."""

    data: object
    lines: Mapping[KeyPath, int]
    issues: tuple[Issue, ...]

    def line(self, issue: Issue) -> int:
        """Line of the issue; for something that is missing, the line of what it is missing from."""
        if issue.line is not None:
            return issue.line
        path = issue.path
        while path not in self.lines and path:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_source(path: Path) -> Source:
    """Read the file. What makes it unreadable as a whole raises InventoryError with that one problem."""
    try:
        return parse(decode(read_bytes(path)))
    except _Unreadable as error:
        issue = error.issue
        problem = Problem(str(path), issue.line or 1, path_text(issue.path), issue.message, issue.hint)
        raise InventoryError([problem]) from error.__cause__


class _Unreadable(Exception):
    """There is no data to continue with."""

    def __init__(self, line: int, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.issue = Issue((), message, hint, line)


def read_bytes(path: Path) -> bytes:
    """The bytes of the file, of which it may also be a pipe: `--inventory <(decrypt …)`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise _Unreadable(1, "no such file", "clusterctl init writes one, or copy inventory.example.yaml") from error
    except IsADirectoryError as error:
        raise _Unreadable(1, "this is a directory, not a file", "give the file inside it") from error
    except PermissionError as error:
        raise _Unreadable(1, "permission denied", "check its owner and mode with ls -l") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _Unreadable(1, f"cannot read the file: {reason}") from error
    if len(data) > MAX_BYTES:
        raise _Unreadable(1, f"the file is larger than {MAX_BYTES // 1024} KiB, too large for an inventory")
    return data


def decode(data: bytes) -> str:
    """The bytes as text."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"the file is not UTF-8 text (byte 0x{data[error.start]:02x})"
        raise _Unreadable(line, message, "save it as UTF-8") from error


class _Lines:
    """Line numbers as editors count them. YAML also ends lines at U+0085, U+2028 and U+2029."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.ends = [match.end() for match in re.finditer(r"\r\n|\r|\n", text)]
        self.last = len(self.ends) + (0 if not text or self.ends[-1:] == [len(text)] else 1)

    def at(self, index: int) -> int:
        return max(1, min(bisect.bisect_right(self.ends, index) + 1, self.last))


def parse(text: str) -> Source:
    """The text as data with lines."""
    lines = _Lines(text)
    root = compose(text, lines)
    reading = _Reading(lines)
    data = reading.value(root, (), root)
    return Source(data, reading.lines, tuple(reading.issues))


class _Composer(Reader, Scanner, Parser, Composer, BaseResolver):
    """PyYAML's node tree, with a limit on depth and without anchors and aliases."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self.depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        event = cast(Any, self).peek_event()  # PyYAML's types end here
        if isinstance(event, AliasEvent) or event.anchor is not None:
            sign = "*" if isinstance(event, AliasEvent) else "&"
            raise _Refused(
                event.start_mark,
                f"anchors and aliases ({sign}{quoted(str(event.anchor))[1:-1]}) are not supported",
                "repeat the value instead",
            )
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Refused(event.start_mark, f"nested more than {MAX_DEPTH} levels deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Composer.add_implicit_resolver(BOOL, re.compile(rf"^(?:{BOOL_FORM.pattern})$"), list("tTfF"))
_Composer.add_implicit_resolver(INT, re.compile(rf"^(?:{INT_FORM.pattern})\Z"), list("-+0123456789"))
_Composer.add_implicit_resolver(FLOAT, re.compile(rf"^(?:{FLOAT_FORM.pattern})\Z"), list("-+.0123456789"))
_Composer.add_implicit_resolver(NULL, re.compile(rf"^(?:{NULL_FORM.pattern})\Z"), ["~", "n", "N", ""])


class _Refused(YAMLError):
    """Good YAML that an inventory may not contain."""

    def __init__(self, mark: Mark, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.index, self.message, self.hint = mark.index, message, hint


def compose(text: str, lines: _Lines) -> Node:
    """The node tree of the one document in the text."""
    try:
        composer = _Composer(text)
    except ReaderError as error:
        character = f"U+{ord(text[error.position]):04X}"
        raise _Unreadable(lines.at(error.position), f"the file contains a control character ({character})") from error
    try:
        return compose_document(composer)
    except _Refused as error:
        raise _Unreadable(lines.at(error.index), error.message, error.hint) from error
    except MarkedYAMLError as error:
        raise syntax_error(error, text, lines) from error
    except (ValueError, OverflowError) as error:
        # PyYAML does not check the number in an escape ("\UFFFFFFFF") or in a %YAML directive.
        raise _Unreadable(lines.at(composer.index), "not valid YAML: a number is out of range") from error


def compose_document(composer: _Composer) -> Node:
    """The root of the one document."""
    start = cast(Any, composer).get_event()
    node = None if composer.check_event(StreamEndEvent) else cast(Node, composer.compose_document())
    if node is None or (node.tag == NULL and node.value == ""):
        raise _Refused(start.start_mark, "the file is empty", "copy inventory.example.yaml to start with")
    if not composer.check_event(StreamEndEvent):
        second = cast(Any, composer).get_event()
        raise _Refused(second.start_mark, "a second document begins here (---)", "one inventory per file")
    return node


def syntax_error(error: MarkedYAMLError, text: str, lines: _Lines) -> _Unreadable:
    """A syntax error in the words of PyYAML, which are good, except for the commonest one."""
    mark = error.problem_mark or error.context_mark
    index = mark.index if mark else 0
    if text[index : index + 1] == "\t":
        return _Unreadable(lines.at(index), "YAML cannot be indented with tabs", "use spaces")
    hint = None
    if error.context and error.context_mark:
        hint = f"{error.context}, which starts on line {lines.at(error.context_mark.index)}"
    return _Unreadable(lines.at(index), f"not valid YAML: {error.problem or error.context}", hint)


class _Reading:
    """The walk from nodes to data: collects lines and issues on the way."""

    def __init__(self, positions: _Lines) -> None:
        self.positions = positions
        self.lines: dict[KeyPath, int] = {}
        self.issues: list[Issue] = []

    def value(self, node: Node, path: KeyPath, place: Node) -> object:
        """The node's value. `place` is the node whose line counts: a mapping's value is found by its key."""
        self.lines[path] = self.positions.at(place.start_mark.index)
        if isinstance(node, MappingNode) and node.tag == TAG + "map":
            return self.mapping(node, path)
        if isinstance(node, SequenceNode) and node.tag == TAG + "seq":
            return [self.value(item, (*path, index), item) for index, item in enumerate(node.value)]
        if isinstance(node, ScalarNode):
            try:
                return scalar(node, path)
            except _Unusable as error:
                self.issues.append(error.issue)
                return None
        self.issues.append(unknown_tag(node, path).issue)
        return None

    def mapping(self, node: MappingNode, path: KeyPath) -> dict[str, object]:
        data: dict[str, object] = {}
        for key, value in node.value:
            line = self.positions.at(key.start_mark.index)
            name = self.key(key, path, line)
            if name is None:
                continue
            if name in data:
                first = self.lines[(*path, name)]
                again = f"set twice, first on line {first}"
                self.issues.append(Issue((*path, name), again, "keep one of them", line))
                continue
            data[name] = self.value(value, (*path, name), key)
        return data

    def key(self, key: Node, path: KeyPath, line: int) -> str | None:
        if not isinstance(key, ScalarNode):
            self.issues.append(Issue(path, "a key must be text, not a mapping or a list", None, line))
            return None
        if key.tag != STR or is_old_bool(key):
            issue = Issue(path, f"the key {quoted(key.value)} must be text", "put it in quotes", line)
            self.issues.append(issue)
            return None
        try:
            return text_value(key, path)
        except _Unusable as error:
            self.issues.append(Issue(path, f"in a key, {error.issue.message}", error.issue.hint, line))
            return None


class _Unusable(Exception):
    """A scalar without a value."""

    def __init__(self, path: KeyPath, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.issue = Issue(path, message, hint)


def scalar(node: ScalarNode, path: KeyPath) -> str | int | float | bool | None:
    """The scalar's value; raises _Unusable."""
    text: str = node.value
    if node.tag == STR:
        if is_old_bool(node) and path not in SWITCHES:
            meant = "true" if text.lower() in ("yes", "on") else "false"
            message = f"{shown(text, path)} is a truth value in some versions of YAML and text in others"
            raise _Unusable(path, message, f"put it in quotes if it is text, otherwise write {meant}")
        return text_value(node, path)
    if node.tag == NULL and NULL_FORM.fullmatch(text):
        return None
    if node.tag == BOOL and BOOL_FORM.fullmatch(text):
        return text.lower() == "true"
    if node.tag == INT and INT_FORM.fullmatch(text):
        return int_value(text, path)
    if node.tag == FLOAT and FLOAT_FORM.fullmatch(text):
        return float_value(text, path)
    raise unknown_tag(node, path)


def is_old_bool(node: ScalarNode) -> bool:
    """Whether YAML 1.1 and 1.2 disagree on the scalar. `style` is None where there are no quotes."""
    return node.style is None and OLD_BOOL_FORM.fullmatch(node.value) is not None


def text_value(node: ScalarNode, path: KeyPath) -> str:
    """The text, if it can be shown, stored and sent."""
    text: str = node.value
    if bad := FORBIDDEN_CHARACTER.search(text):
        raise _Unusable(path, f"the control character U+{ord(bad.group()):04X} is not allowed")
    return text


def int_value(text: str, path: KeyPath) -> int:
    """The number, if every reader would read the same one."""
    digits = text.lstrip("+-")
    if digits.startswith("0") and digits.isdigit() and len(digits) > 1:
        message = f"{shown(text, path)} is octal in some versions of YAML and decimal in others"
        raise _Unusable(path, message, "write it without the leading zero, or in quotes if it is text")
    # The length first: Python refuses to convert thousands of digits.
    number = None if len(digits) > len(str(MAX_INT)) else int(text, 0)
    if number is None or abs(number) > MAX_INT:
        raise _Unusable(path, "the number is too large", "put it in quotes if it is text")
    return number


def float_value(text: str, path: KeyPath) -> float:
    """The number, if it is finite."""
    number = math.inf if text.lower().endswith(("inf", "nan")) else float(text)
    if not math.isfinite(number):
        raise _Unusable(path, f"{shown(text, path)} is not a finite number", "put it in quotes if it is text")
    return number


def unknown_tag(node: Node, path: KeyPath) -> _Unusable:
    """!!timestamp, !!python/object, !!int in front of text …"""
    tag = quoted(node.tag.replace(TAG, "!!"))[1:-1]
    return _Unusable(path, f"the YAML tag {tag} is not supported here", "remove it")
