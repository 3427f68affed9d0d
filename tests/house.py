"""The shape of the code in figures, read from the code itself: `make house`, and tests/unit/test_floors.py.

    python -m tests.house [PACKAGE_DIRECTORY]

A room is a package (or a lone module) right below clusterctl/; FLOORS is the order in which they stand.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "clusterctl"

FLOORS = (
    *("errors", "progress", "rendering", "signatures", "agent", "secrets", "inventory", "hosts", "modes", "facts"),
    *(
        "deployment",
        "layout",
        "proposal",
        "findings",
        "planning",
        "lock",
        "apply",
        "preflight",
        "status",
        "records",
        "diagnosis",
    ),
    *("actions", "ui", "lab", "cli"),
)
"""From the ground up: a room imports only rooms that stand before it. `proposal` (what an inventory could say) stands
right above what it decides from: facts, deployment and layout; it knows neither findings nor plans, which need one."""

OUTSIDE = ("", "__main__")
"""The package itself (its version) and the entry point: the first is below every floor, the second above."""

IN_THE_IMAGE = "lab/image/"
"""What runs in the lab's image, beside torch and vLLM: not part of the tool."""

NO_ENGINE = ("lab/", "agent/", "preflight/inside/")
"""Where no engine's answer can come: the lab builds its own machines, and the others' programs run in containers (a
`Name` that they read is Ray's, or a Python distribution's)."""

MOST_LINES, MOST_FUNCTION_LINES, MOST_PARAMETERS = 450, 50, 6

_RAY = re.compile(r"(?<![A-Za-z])ray(?![A-Za-z])", re.IGNORECASE)

_RAW_KEYS = {
    *("State", "Config", "HostConfig", "Labels", "RepoTags", "RepoDigests", "RootFS", "Layers", "Running", "ExitCode"),
    *("Restarting", "Paused", "OOMKilled", "Error", "Status", "StartedAt", "FinishedAt", "Created", "Image", "Mounts"),
    *("RestartPolicy", "RestartCount", "Id", "Name", "Names", "NetworkSettings", "Processes", "ServerVersion"),
    *("Runtimes", "DockerRootDir", "ApiVersion", "CgroupDriver", "SecurityOptions", "SystemTime"),
}
"""Keys of the engine's own answers (Docker Engine API 1.41)."""


@dataclass(frozen=True)
class Import:
    """One import of one of our modules by another."""

    importer: str
    imported: str
    line: int


@dataclass(frozen=True)
class Function:
    """A function or method: where, and how large."""

    file: str
    name: str
    lines: int
    parameters: int
    is_command: bool
    """A click command: its parameters are the command line's."""


class House:
    """The package's files, and what is counted of them."""

    def __init__(self, package: Path = PACKAGE) -> None:
        self.files = {
            path.relative_to(package).as_posix(): ast.parse(path.read_text(encoding="utf-8"), str(path))
            for path in sorted(package.rglob("*.py"))
            if not path.relative_to(package).as_posix().startswith(IN_THE_IMAGE)
        }
        self.sizes = {file: len((package / file).read_text(encoding="utf-8").splitlines()) for file in self.files}
        self.modules = {_module(file): file for file in self.files}

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """Every import of our own modules: in functions and under TYPE_CHECKING too, relative ones resolved."""
        return tuple(found for module, file in self.modules.items() for found in self._imports(module, file))

    def _imports(self, module: str, file: str) -> Iterator[Import]:
        package = module if file.endswith("__init__.py") else module.rpartition(".")[0]
        for node in ast.walk(self.files[file]):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                above = package.rsplit(".", node.level - 1)[0] if node.level else ""
                base = ".".join(part for part in (above, node.module) if part)
                names = [name if (name := f"{base}.{alias.name}") in self.modules else base for alias in node.names]
            for name in dict.fromkeys(names):
                if (name == "clusterctl" or name.startswith("clusterctl.")) and name != module:
                    yield Import(module, name, getattr(node, "lineno", 0))

    @property
    def rooms(self) -> tuple[str, ...]:
        """Rooms that exist."""
        return tuple(sorted({room(module) for module in self.modules} - set(OUTSIDE)))

    @property
    def unknown_rooms(self) -> tuple[str, ...]:
        """Rooms that no floor was given."""
        return tuple(name for name in self.rooms if name not in FLOORS)

    @property
    def between_rooms(self) -> tuple[Import, ...]:
        """Imports from one room to another."""
        inside = [found for found in self.imports if not {room(found.importer), room(found.imported)} & set(OUTSIDE)]
        return tuple(found for found in inside if room(found.importer) != room(found.imported))

    @property
    def against_the_order(self) -> tuple[Import, ...]:
        """Imports that go up."""
        height = {name: floor for floor, name in enumerate(FLOORS)}
        return tuple(
            found
            for found in self.between_rooms
            if height.get(room(found.imported), -1) > height.get(room(found.importer), len(FLOORS))
        )

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Rooms that import each other."""
        edges = {(room(found.importer), room(found.imported)) for found in self.between_rooms}
        return tuple(sorted((one, other) for one, other in edges if one < other and (other, one) in edges))

    @property
    def circles(self) -> tuple[tuple[str, ...], ...]:
        """Files that import each other, directly or in a round."""
        graph: dict[str, set[str]] = defaultdict(set)
        for found in self.imports:
            if found.imported in self.modules:
                graph[found.importer].add(found.imported)
        return tuple(tuple(sorted(members)) for members in _strongly_connected(graph) if len(members) > 1)

    @cached_property
    def functions(self) -> tuple[Function, ...]:
        """Every function and method, nested ones too."""
        return tuple(
            _function(file, node)
            for file, tree in self.files.items()
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        )

    @property
    def naming_ray(self) -> tuple[str, ...]:
        """Files that name Ray in code or in strings; comments and docstrings do not count."""
        return tuple(file for file, tree in self.files.items() if any(_RAY.search(word) for word in _words(tree)))

    @property
    def raw_engine_reads(self) -> tuple[tuple[str, int], ...]:
        """Places outside the engine's door that read one of the engine's own keys: `["State"]`, `.get("Config")`."""
        return tuple(
            (file, node.lineno)
            for file, tree in self.files.items()
            if not file.startswith(("hosts/engine/", *NO_ENGINE))
            for node in ast.walk(tree)
            if isinstance(node, ast.expr) and _raw_key(node)
        )


def room(module: str) -> str:
    """The room of a module; empty for the package itself."""
    return [*module.split("."), ""][1]


def _module(file: str) -> str:
    dotted = "clusterctl." + file.removesuffix(".py").replace("/", ".")
    return dotted.removesuffix("__init__").rstrip(".")


def _function(file: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Function:
    arguments = node.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    own = [argument for argument in named if argument.arg not in ("self", "cls")]
    extra = sum(argument is not None for argument in (arguments.vararg, arguments.kwarg))
    decorators = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
    is_command = re.search(r"\.command\b|\.group\b", decorators) is not None
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return Function(file, node.name, (node.end_lineno or first) - node.lineno + 1, len(own) + extra, is_command)


def _words(tree: ast.Module) -> Iterator[str]:
    """Names and strings of the code, in which `_` and `-` separate words."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield re.sub(r"([a-z])([A-Z])", r"\1_\2", name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield re.sub(r"([a-z])([A-Z])", r"\1_\2", name)
            case ast.alias(name=name):
                yield name
            case ast.ImportFrom(module=str(name)):
                yield name
            case ast.Constant(value=str(text)) if id(node) not in prose:
                yield text


def _raw_key(node: ast.expr) -> bool:
    match node:
        case ast.Subscript(slice=ast.Constant(value=str(key))):
            return key in _RAW_KEYS
        case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=str(key)), *_]):
            return key in _RAW_KEYS
    return False


def _strongly_connected(graph: Mapping[str, set[str]]) -> Iterator[set[str]]:
    """Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(node: str) -> Iterator[set[str]]:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                yield from visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            cut = stack.index(node)
            yield set(stack[cut:])
            del stack[cut:]

    for node in sorted(graph):
        if node not in index:
            yield from visit(node)


def report(house: House) -> Iterator[str]:
    """The figures, a line each, with the places where there is something to mend."""
    long_files = sorted(((size, file) for file, size in house.sizes.items() if size > MOST_LINES), reverse=True)
    long_functions = sorted((f for f in house.functions if f.lines > MOST_FUNCTION_LINES), key=lambda f: -f.lines)
    wide = [f for f in house.functions if f.parameters > MOST_PARAMETERS and not f.is_command]
    modules = [name for name in house.rooms if f"{name}.py" in house.files]
    longest = max(house.sizes.values())
    yield f"rooms                          {len(house.rooms):4}   ({len(modules)} modules, the rest packages)"
    yield f"rooms without a floor          {len(house.unknown_rooms):4}   {', '.join(house.unknown_rooms)}"
    yield f"imports between rooms          {len(house.between_rooms):4}"
    yield f"imports against the order      {len(house.against_the_order):4}"
    yield from (f"    {found.importer}:{found.line} imports {found.imported}" for found in house.against_the_order)
    yield f"pairs that import each other   {len(house.pairs):4}   {', '.join(map(' and '.join, house.pairs))}"
    yield f"circles of files               {len(house.circles):4}   {'; '.join(map(', '.join, house.circles))}"
    yield f"files over {MOST_LINES} lines            {len(long_files):4}   (the longest: {longest})"
    yield from (f"    {file}: {size}" for size, file in long_files)
    yield f"functions over {MOST_FUNCTION_LINES} lines         {len(long_functions):4}"
    yield from (f"    {found.file} {found.name}: {found.lines}" for found in long_functions)
    yield f"more than {MOST_PARAMETERS} parameters         {len(wide):4}   (click commands excepted)"
    yield from (f"    {found.file} {found.name}: {found.parameters}" for found in wide)
    yield f"files that name Ray            {len(house.naming_ray):4}"
    yield f"raw engine reads               {len(house.raw_engine_reads):4}   outside hosts/engine"
    yield from (f"    {file}:{line}" for file, line in house.raw_engine_reads)


if __name__ == "__main__":
    print("\n".join(report(House(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE))))
