"""The documents: the paths that they name exist, their sentences are short, and the Python in them runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from alexnet_dist.export import main as export
from support.documents import DESIGN, FENCED, GUIDES, LAUNCH, ROOT, blocks, commands, read
from support.folders import encoded, photo
from support.runs import CLASSES, write_run

PACKAGE = ROOT / "alexnet_dist"
DOCUMENTS = [*GUIDES, *DESIGN, *LAUNCH, "ARCHITECTURE.md", "CONTRIBUTING.md"]
PACKAGE_FOLDERS = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
ROOT_FOLDERS = {".ci", "alexnet_dist", "benchmarks", "configs", "docs", "launch", "tests"}
MOST_WORDS = 40
MOST_WORDS_OF = {"ARCHITECTURE.md": 1200, "README.md": 1300}


def paths(text: str) -> list[str]:
    """Return the paths of this repository that a text names in backticks."""
    names = [name.partition(":")[0] for name in re.findall(r"`([\w./-]+(?::[\w.]+)?)`", FENCED.sub("", text))]
    folders = {name: PACKAGE_FOLDERS | ROOT_FOLDERS if name.endswith("/") else ROOT_FOLDERS for name in names}
    return [name for name in names if name.endswith(".py") or name.partition("/")[0] in folders[name]]


def exists(path: str, folder: Path = ROOT) -> bool:
    """Return whether a path exists from a folder, the root or the package, or for a bare name anywhere in it."""
    places = (folder, ROOT, PACKAGE)
    return any((place / path).exists() for place in places) or ("/" not in path and any(PACKAGE.rglob(path)))


def sentences(text: str) -> list[str]:
    """Return the sentences of a document, without code blocks, tables and headings; code is one word each."""
    prose = re.sub(r"^(\|.*|#.*)$", "", FENCED.sub("", text), flags=re.MULTILINE)
    prose = re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", "code", prose))
    paragraphs = re.split(r"\n\s*\n|^\s*(?:[-*]|\d+\.) ", prose, flags=re.MULTILINE)
    return [sentence for paragraph in paragraphs for sentence in re.split(r"[.?!][)*]*\s+(?=\S)", paragraph)]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_exists(document: str) -> None:
    folder = (ROOT / document).parent
    assert [path for path in paths(read(document)) if not exists(path, folder)] == []


def test_the_documents_name_paths() -> None:
    assert sum(len(paths(read(document))) >= 3 for document in DOCUMENTS) >= 10


def test_every_path_of_the_file_tree_exists() -> None:
    trees = "".join(blocks("docs/code.md", "text"))
    named = [line.split()[0] for line in trees.splitlines()] + re.findall(r"[\w/]+/\w+\.py", trees)
    assert len(named) >= 25
    assert [path for path in named if not exists(path)] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_sentences_are_short(document: str) -> None:
    long = [sentence for sentence in sentences(read(document)) if len(sentence.split()) > MOST_WORDS]
    assert long == []


@pytest.mark.parametrize("document", MOST_WORDS_OF)
def test_a_map_is_short(document: str) -> None:
    assert len(read(document).split()) < MOST_WORDS_OF[document]


def test_the_first_commands_of_the_readme_need_nothing_else() -> None:
    assert [command.words for command in commands("README.md")[:2]] == [("make", "demo"), ("make", "test")]


def test_the_python_of_the_guide_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, _ = write_run(tmp_path / "home")
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/demo").symlink_to(directory)
    Path("cat.jpg").write_bytes(encoded(photo(3, 30, 40)))
    export(["runs/demo", "alexnet.safetensors"])
    (code,) = blocks("docs/use.md", "python")
    names: dict[str, Any] = {}
    exec(compile(code, "docs/use.md", "exec"), names)
    assert capsys.readouterr().out.count("%") == 5
    assert names["logits"].shape == names["probabilities"].shape == (1, CLASSES)
    assert len(names["units"]) == names["net"].model.net.layers["fc6"].channels
    assert (names["logits"].softmax(1) - names["probabilities"]).abs().max() < 1e-5
    assert not names["paper"].training
