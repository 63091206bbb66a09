"""The documents as a site: `make docs` builds every page, and a broken link or anchor is an error."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.documents import GUIDES, ROOT

PAGES = ("README.md", "docs", "benchmarks", "launch", "shards", "Makefile")
SITE = Path("build/docs/site")

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def build(checkout: Path) -> subprocess.CompletedProcess[str]:
    """Run `make docs` in a checkout, with the programs beside this Python."""
    command = ["make", "docs", "READY=", f"BIN={Path(sys.executable).parent}"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the pages and the Makefile."""
    for path in [*ROOT.glob("*.md"), *(ROOT / name for name in PAGES)]:
        if path.is_dir():
            shutil.copytree(path, tmp_path / path.name, ignore=shutil.ignore_patterns("*.tar"))
        else:
            shutil.copy(path, tmp_path)
    return tmp_path


def test_every_page_is_built(checkout: Path) -> None:
    done = build(checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = [checkout / SITE / page.replace(".md", ".html") for page in GUIDES[1:]]
    assert [page for page in [checkout / SITE / "index.html", *pages] if not page.exists()] == []


@pytest.mark.parametrize("link", ["[a](nowhere.md)", "[a](pack.md#nowhere)"])
def test_a_broken_link_is_an_error(link: str, checkout: Path) -> None:
    with (checkout / "docs" / "use.md").open("a") as page:
        page.write(f"\nSee {link}.\n")
    done = build(checkout)
    assert done.returncode == 2
    assert "does not exist" in done.stdout + done.stderr
