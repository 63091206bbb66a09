"""The documents: the commands, paths and links that they name exist, and their sentences are short."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from alexnet_dist.__main__ import COMMANDS
from alexnet_dist.export import main as export
from support.folders import encoded, photo
from support.runs import CLASSES, write_run

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "alexnet_dist"
DESIGN = [f"docs/design/{path.name}" for path in sorted((ROOT / "docs" / "design").glob("*.md"))]
DOCUMENTS = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "docs/paper.md",
    "docs/faults.md",
    "docs/alerts.md",
    "docs/records.md",
    *DESIGN,
]
PACKAGE_FOLDERS = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
ROOT_FOLDERS = {".ci", "alexnet_dist", "benchmarks", "configs", "docs", "launch", "tests"}
MOST_WORDS, MOST_WORDS_OF_ARCHITECTURE = 40, 1200
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read(document: str) -> str:
    """Return the text of a document of the repository."""
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str, language: str) -> list[str]:
    """Return the fenced blocks of a document in a language."""
    return [text for tag, text in FENCED.findall(read(document)) if tag == language]


def paths(text: str) -> list[str]:
    """Return the paths of this repository that a text names in backticks."""
    names = [name.partition(":")[0] for name in re.findall(r"`([\w./-]+(?::[\w.]+)?)`", FENCED.sub("", text))]
    folders = {name: PACKAGE_FOLDERS | ROOT_FOLDERS if name.endswith("/") else ROOT_FOLDERS for name in names}
    return [name for name in names if name.endswith(".py") or name.partition("/")[0] in folders[name]]


def exists(path: str) -> bool:
    """Return whether a path exists from the root, from the package, or, for a bare name, anywhere in the package."""
    return (ROOT / path).exists() or (PACKAGE / path).exists() or ("/" not in path and any(PACKAGE.rglob(path)))


def sentences(text: str) -> list[str]:
    """Return the sentences of a document, without code blocks, tables and headings; code is one word each."""
    prose = re.sub(r"^(\|.*|#.*)$", "", FENCED.sub("", text), flags=re.MULTILINE)
    prose = re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", "code", prose))
    paragraphs = re.split(r"\n\s*\n|^\s*(?:[-*]|\d+\.) ", prose, flags=re.MULTILINE)
    return [sentence for paragraph in paragraphs for sentence in re.split(r"[.?!][)*]*\s+(?=\S)", paragraph)]


def test_every_command_exists() -> None:
    lines = "\n".join(blocks("README.md", "sh") + blocks("docs/paper.md", "sh"))
    named = re.findall(r"-m alexnet_dist\.(\w+)|^alexnet-dist (\w+)", lines, re.MULTILINE)
    commands = {module or command for module, command in named}
    assert len(commands) >= 8
    assert commands <= set(COMMANDS)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_exists(document: str) -> None:
    named = paths(read(document))
    assert [path for path in named if not exists(path)] == []
    assert len(named) >= 3


def test_every_path_of_the_file_tree_exists() -> None:
    trees = "".join(blocks("README.md", "text"))
    named = [line.split()[0] for line in trees.splitlines()] + re.findall(r"[\w/]+/\w+\.py", trees)
    assert len(named) >= 25
    assert [path for path in named if not exists(path)] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_exists(document: str) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", read(document))
    assert [target for target in targets if not ((ROOT / document).parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_sentences_are_short(document: str) -> None:
    long = [sentence for sentence in sentences(read(document)) if len(sentence.split()) > MOST_WORDS]
    assert long == []


def test_the_architecture_is_short() -> None:
    assert len(read("ARCHITECTURE.md").split()) < MOST_WORDS_OF_ARCHITECTURE


def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, _ = write_run(tmp_path / "home")
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/demo").symlink_to(directory)
    Path("cat.jpg").write_bytes(encoded(photo(3, 30, 40)))
    export(["runs/demo", "alexnet.safetensors"])
    (code,) = blocks("README.md", "python")
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert capsys.readouterr().out.count("%") == 5
    assert names["logits"].shape == names["probabilities"].shape == (1, CLASSES)
    assert len(names["units"]) == names["net"].model.net.layers["fc6"].channels
    assert (names["logits"].softmax(1) - names["probabilities"]).abs().max() < 1e-5
    assert not names["paper"].training
