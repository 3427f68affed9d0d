"""Links lead somewhere, the site builds strictly, and nothing names the machine that it was written on."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, anchors, blocks, links

NAMES = {page: str(page.relative_to(ROOT)) for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=NAMES.values())
def test_relative_links_and_anchors_resolve(page: Path) -> None:
    broken = []
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and (target.suffix != ".md" or anchor not in anchors(target))):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES.values())
def test_code_blocks_are_closed_and_name_their_language(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(blocks(page))
    assert [block for block in blocks(page) if not block.language] == []


def test_every_runbook_is_in_the_index_and_in_the_navigation() -> None:
    folder = ROOT / "docs/runbooks"
    pages = {path.name for path in folder.glob("*.md")} - {"index.md"}
    indexed = {link.partition("#")[0] for link in links(folder / "index.md")}
    assert pages - indexed == set()
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert {name for name in pages if f"- runbooks/{name}\n" not in navigation} == set()


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "runbooks" / "start-causes" / "index.html").exists()


def test_no_file_names_the_machine_it_was_written_on() -> None:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    # This checkout, this interpreter's environment, and anybody's home directory.
    here = {str(ROOT), str(Path(sys.prefix)), str(Path.home())} - {"/", "/root", "/usr", "/usr/local"}
    home = re.compile(
        r"(?<![\w.~/-])/(?:home|Users)/(?!(?:ops|ubuntu|user)/)[a-z][\w-]*/"
    )  # names of examples are fine
    found = []
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if not name or not path.is_file():
            continue
        text = path.read_bytes().decode(errors="replace")
        found += [f"{name}: {place}" for place in here if re.search(re.escape(place) + r"(?![\w-])", text)]
        found += [f"{name}: {match[0]}" for match in home.finditer(text)]
    assert found == []
