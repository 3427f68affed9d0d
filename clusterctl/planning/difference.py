"""What differs between what runs and what is declared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from clusterctl.planning.container import ContainerSpec
from clusterctl.secrets.masking import masked


@dataclass(frozen=True)
class Change:
    """One value that differs: where, what it is now, what it shall be."""

    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.path}: {_shown(self.old)} -> {_shown(self.new)}"


def changes_of(record: Mapping[str, Any], spec: ContainerSpec) -> tuple[Change, ...]:
    """What differs between a container's record and what it shall be, secrets masked."""
    return tuple(_differences(masked(_settings(record)), masked(_settings(spec.values()))))


def _settings(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values as a person compares them: of a file whose content is known its settings, of another its hash."""
    files, contents = values.get("files"), values.get("file_contents")
    if not isinstance(files, Mapping) or not isinstance(contents, Mapping):
        return values
    shown = {path: _parsed(str(contents[path])) if path in contents else digest for path, digest in files.items()}
    return {**{key: value for key, value in values.items() if key != "file_contents"}, "files": shown}


def _parsed(content: str) -> Any:
    """A rendered file's settings: all of them are YAML, or JSON, which is YAML."""
    try:
        return yaml.safe_load(content)
    except yaml.YAMLError:
        return content


def _differences(old: Any, new: Any, path: str = "") -> Iterator[Change]:
    """Leaf by leaf."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif old != new:
        yield Change(path, old, new)


def _shown(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 100 and "\n" not in text else f"{text.splitlines()[0][:80]} …"
