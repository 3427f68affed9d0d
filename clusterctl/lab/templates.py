"""The lab's files under templates/lab, in a checkout, an editable install and a wheel."""

from __future__ import annotations

from pathlib import Path

import jinja2

from clusterctl.errors import ClusterctlError


def directory() -> Path:
    """The templates/lab directory."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "templates" / "lab", package.parent / "templates" / "lab"):
        if candidate.is_dir():
            return candidate
    raise ClusterctlError("templates/lab is missing from this installation", hint="reinstall clusterctl")


def text(name: str) -> str:
    """A static file."""
    return (directory() / name).read_text()


def render(template: str, /, **values: object) -> str:
    """A rendered template. A name that was not given is an error, not an empty string."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(directory()),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (configuration files, not HTML)
    )
    return environment.get_template(template).render(**values)
