"""The model's directory on a node: values, and from the probe's output (probes/model.sh) to them. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clusterctl.facts.fact import Fact, Unknown
from clusterctl.facts.gguf import Gguf
from clusterctl.facts.parse import Section, text
from clusterctl.facts.safetensors import MAX_HEADER_BYTES, Header

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
"""Names of files that hold weights end so."""


@dataclass(frozen=True)
class ModelFiles:
    """The model's directory, or the one file that is the model. Names are those of files in it; sizes are in bytes,
    links followed."""

    sizes: Mapping[str, int]
    config: Fact[Mapping[str, Any]]
    index_shards: Fact[tuple[str, ...]]
    """Files that model.safetensors.index.json names; None without an index."""
    params: Fact[Mapping[str, Any]] = None
    """params.json: the configuration of Mistral's own format."""
    mistral_shards: Fact[tuple[str, ...]] = None
    """Files that consolidated.safetensors.index.json names; None without it."""
    bin_shards: Fact[tuple[str, ...]] = None
    """Files that pytorch_model.bin.index.json names; None without it."""
    single: str | None = None
    """The file's name, where the path is one file (GGUF); the container then sees nothing but that file."""
    directory: Fact[str] = None
    """Where the path leads, links resolved."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Symbolic links and what they say."""
    dangling: tuple[str, ...] = ()
    """Links whose target is not there."""
    pointers: tuple[str, ...] = ()
    """Files that are Git LFS pointers to the file that should be there."""
    unfinished: tuple[str, ...] = ()
    """What an unfinished download left."""
    snapshots: tuple[str, ...] = ()
    """Revisions, where the path is a Hugging Face cache's folder instead of one of them."""
    digests: Fact[Mapping[str, str]] = None
    """SHA-256 of the small files that vLLM reads."""
    starts: Mapping[str, bytes] = field(default_factory=dict)
    """First eight bytes of each safetensors and GGUF file (fewer where it is shorter)."""
    headers_digest: Fact[str] = None
    """SHA-256 over the headers of these files (of a GGUF file its first MiB), in the order of their names."""
    headers: Mapping[str, Header | Unknown] = field(default_factory=dict)
    """Headers, as far as they were asked for (facts/model_headers.py)."""
    ggufs: Mapping[str, Gguf | Unknown] = field(default_factory=dict)
    """Headers of GGUF files, as far as they were asked for."""
    tools: tuple[str, ...] = ()
    """Of b3sum and sha256sum those that the node has."""
    unread: tuple[str, ...] = ()
    """What could not be read, each with the reason."""

    @property
    def shards(self) -> tuple[str, ...]:
        """The safetensors files."""
        return tuple(sorted(name for name in self.sizes if name.endswith(".safetensors")))

    @property
    def weights(self) -> tuple[str, ...]:
        """All files that hold weights."""
        return tuple(sorted(name for name in self.sizes if name.endswith(WEIGHTS)))

    @property
    def blobs(self) -> Mapping[str, str]:
        """Files that are links to blobs of a Hugging Face cache, which are named by their SHA-256: file → digest."""
        named = {name: target.rpartition("/")[2] for name, target in self.links.items()}
        return {name: blob for name, blob in named.items() if re.fullmatch(r"[0-9a-f]{64}", blob)}

    @property
    def revision(self) -> str | None:
        """The commit, where the path leads into a Hugging Face cache (…/snapshots/COMMIT)."""
        match = re.search(r"/snapshots/([0-9a-f]{40})$", self.directory) if isinstance(self.directory, str) else None
        return match[1] if match else None


def header_length(start: bytes, size: int) -> int | str:
    """Length of the header in bytes, or why there is none. `start`: the first eight bytes; `size`: the file's."""
    if size == 0:
        return "is empty"
    if len(start) < 8:
        return f"has {size} B: shorter than any header" if size < 8 else "could not be read"
    length = int.from_bytes(start, "little")
    if length > MAX_HEADER_BYTES or length == 0:
        return f"begins with {start!r}: not the length of a header"
    if length > size - 8:
        return f"has {size} B, its header alone {length + 8} B"
    return length


def model(found: Mapping[str, Section]) -> Fact[ModelFiles]:
    """The model's directory; None where the path does not exist."""
    output = text(found, "model_files")
    if not isinstance(output, str):
        return output
    rows = re.findall(r"^(\d{1,18}) (?:\./)?(.+)$", output, re.MULTILINE)
    starts, headers_digest = _headers(text(found, "model_headers"))
    optional = {name: text(found, f"model_{name}") for name in ("links", "dangling", "pointers", "unfinished")}
    digests = _digests(text(found, "model_digests"))
    unread = [f"{name}: {fact.reason}" for name, fact in optional.items() if isinstance(fact, Unknown)]
    unread += [fact.reason for fact in (digests, headers_digest) if isinstance(fact, Unknown)]
    return ModelFiles(
        sizes={name: int(size) for size, name in rows},
        config=_json(found, "model_config"),
        index_shards=_index_shards(found, "model_index", "model.safetensors.index.json"),
        params=_json(found, "model_params"),
        mistral_shards=_index_shards(found, "model_index_mistral", "consolidated.safetensors.index.json"),
        bin_shards=_index_shards(found, "model_index_bin", "pytorch_model.bin.index.json"),
        single=single if isinstance(single := text(found, "model_single"), str) else None,
        directory=text(found, "model_directory"),
        links=_links(optional["links"]),
        dangling=_names(optional["dangling"]),
        pointers=_names(optional["pointers"]),
        unfinished=_names(optional["unfinished"]),
        snapshots=_names(text(found, "model_snapshots")),
        digests=digests,
        starts=starts,
        headers_digest=headers_digest,
        tools=_names(text(found, "model_tools")),
        unread=tuple(unread),
    )


def _names(output: Fact[str]) -> tuple[str, ...]:
    return tuple(line.removeprefix("./") for line in output.splitlines() if line) if isinstance(output, str) else ()


def _links(output: Fact[str]) -> Mapping[str, str]:
    """Link → target, from `ls -ld`: `lrwxrwxrwx 1 root root 76 Nov 21 12:00 ./config.json -> ../../blobs/…`."""
    rows = re.findall(r"^l.*? \./(.+?) -> (.+)$", output, re.MULTILINE) if isinstance(output, str) else []
    return dict(rows)


def _digests(output: Fact[str]) -> Fact[Mapping[str, str]]:
    if not isinstance(output, str):
        return output
    return {name: digest for digest, name in re.findall(r"^([0-9a-f]{64}) [ *](?:\./)?(.+)$", output, re.MULTILINE)}


def _headers(output: Fact[str]) -> tuple[Mapping[str, bytes], Fact[str]]:
    """First bytes by file, and the digest over all headers; None where there is no safetensors file."""
    if not isinstance(output, str):
        return {}, output
    rows = re.findall(r"^((?:\d{1,3}(?: \d{1,3}){0,7})?)\t(.+)$", output, re.MULTILINE)
    try:
        starts = {name: bytes(int(byte) for byte in said.split()) for said, name in rows}
    except ValueError:
        return {}, Unknown("`od` printed what are no bytes")
    digest = re.search(r"^([0-9a-f]{64})\b", output, re.MULTILINE)
    if not starts:
        return {}, None
    return starts, digest[1] if digest else Unknown("no digest of the headers: is sha256sum installed?")


def _index_shards(found: Mapping[str, Section], section: str, index: str) -> Fact[tuple[str, ...]]:
    """Files that an index names: the index's last characters on the first line, then one name a line."""
    output = text(found, section)
    if not isinstance(output, str):
        return output
    end, *names = output.splitlines() or [""]
    if not end.endswith("}"):
        return Unknown(f"{index} is cut off")
    return tuple(names) or Unknown(f"{index} names no files")


def _json(found: Mapping[str, Section], name: str) -> Fact[dict[str, Any]]:
    content = text(found, name)
    if not isinstance(content, str):
        return content
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        return Unknown(f"not JSON: {error}")
    return value if isinstance(value, dict) else Unknown("not a JSON object")
