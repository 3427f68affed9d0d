"""Ray, vLLM and a Python that the agent can run on are in the image; Ray knows tokens."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.image import numbers, reports
from clusterctl.inventory.model import Inventory
from clusterctl.modes.all import mode_of

OLDEST_PYTHON = (3, 11)
"""What agent/agent.py is written for."""
OLDEST_RAY = (2, 52)
"""First Ray with token authentication (RAY_AUTH_MODE), and with CVE-2025-62593 fixed."""

INCOMPLETE = Code(
    name="image-incomplete",
    severity=ERROR,
    title="Ray or vLLM is not in the image",
    runbook="image-report.md",
    seen="{image}: {missing}",
    why="the server is vLLM, and over Ray the nodes are joined by it; vLLM's own images have had no Ray since 0.18",
    fix="set serve.executor: mp, which needs no Ray, or build an image on top of it: FROM IMAGE, then RUN pip install "
    "ray[default]; set container.image",
    note="What is missing is `no Ray`, `no vLLM`, and with `--deep` also `MODULE does not import (ERROR)`.",
)
NO_VLLM = INCOMPLETE.variant(
    why="the server is vLLM, whatever joins the nodes",
    fix="set container.image to one with vLLM in it: vLLM's own (vllm/vllm-openai), your GPU vendor's, or your own",
)
BROKEN = INCOMPLETE.variant(
    why="what does not import cannot start",
    fix="see it on the node, {command}; then build the image again, or use another one",
)
OLD_PYTHON = Code(
    name="image-python-old",
    severity=ERROR,
    title="The image's Python is too old",
    runbook="image-report.md",
    seen="python3 in {image} is {version}",
    why="clusterctl's agent, the container's first process, needs Python 3.11 or newer",
    fix="use an image with a newer Python",
)
NO_TOKENS = Code(
    name="ray-without-tokens",
    severity=ERROR,
    title="Ray without tokens",
    runbook="image-report.md",
    seen="Ray in {image} is {version}",
    why="before 2.52 Ray ignores the cluster's token: whoever reaches its ports can run code on the nodes",
    fix="use an image with Ray 2.52 or newer",
)


@rule(Section.IMAGE_REPORT, INCOMPLETE, NO_VLLM, BROKEN, OLD_PYTHON, NO_TOKENS)
def image_software(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Ray, vLLM and a Python that the agent can run on are in the image; Ray knows tokens."""
    image, over_ray = inventory.container.image, mode_of(inventory).name == "ray"
    # Ray asked for by name is refused by name: mode-refused.
    needed = ("Ray", "vLLM") if over_ray and inventory.serve.executor == "auto" else ("vLLM",)
    for name, _, report in reports(facts):
        versions = {"Ray": report.ray, "vLLM": report.vllm}
        missing = [f"no {title}" for title in needed if versions[title] is None]
        imports = {module: error for module, error in report.broken_imports.items() if over_ray or module != "ray"}
        broken = [f"{module} does not import ({error})" for module, error in imports.items()]
        seen = ", ".join([*missing, *broken])
        if report.vllm is None:
            yield NO_VLLM.found(name, image=image, missing=seen)
        elif missing:
            yield INCOMPLETE.found(name, image=image, missing=seen)
        elif broken:
            command = facts.nodes[name].commands.run(f"--entrypoint python3 {image} -c 'import {next(iter(imports))}'")
            yield BROKEN.found(name, image=image, missing=seen, command=command)
        if numbers(report.python)[:2] < OLDEST_PYTHON:
            yield OLD_PYTHON.found(name, image=image, version=report.python)
        if over_ray and report.ray is not None and () < numbers(report.ray)[:2] < OLDEST_RAY:
            yield NO_TOKENS.found(name, image=image, version=report.ray)
