"""The documents of the repository as text: their blocks, the commands in these, their links, and their anchors."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
DESIGN = sorted(f"docs/design/{path.name}" for path in (ROOT / "docs" / "design").glob("*.md"))
LAUNCH = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "launch").rglob("*.md"))
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One command of a block of shell: its words without redirections and pipes, its comment, and its text."""

    words: tuple[str, ...]
    comment: str
    text: str


def read(document: str) -> str:
    """Return the text of a document of the repository."""
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str, language: str) -> list[str]:
    """Return the fenced blocks of a document in a language."""
    return [text for tag, text in FENCED.findall(read(document)) if tag == language]


def lines(block: str) -> list[str]:
    """Return the lines of a block of shell that hold a command; those that end with a backslash are joined."""
    joined = re.sub(r"\\\n\s*", "", block)
    return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def commands(document: str) -> list[Command]:
    """Return the commands of a document's blocks of shell."""
    return [command for block in blocks(document, "sh") for line in lines(block) for command in _parse(line)]


def links(document: str) -> list[str]:
    """Return the targets of a document's links and pictures that are no URLs."""
    text = re.sub(r"`[^`\n]*`", "", FENCED.sub("", read(document)))
    return re.findall(r"\]\((?!https?:)([^)\s]+)\)", text)


def anchors(text: str) -> set[str]:
    """Return the anchors of a document's headings, as GitHub and the site make them."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.*)$", FENCED.sub("", text), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        found[name] = found.get(name, -1) + 1
    return {name if not number else f"{name}-{number}" for name, last in found.items() for number in range(last + 1)}


def _parse(line: str) -> Iterator[Command]:
    """Yield the commands of a line, of which a pipe has several."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    comment = line.rpartition(" # ")[2].strip() if " # " in line else ""
    part: list[str] = []
    redirected = False
    for word in [*words, "|"]:
        if word in ("|", "&&", ";"):
            if part:
                yield Command(tuple(part), comment, line)
            part = []
        elif word in (">", "<"):
            redirected = True
        elif redirected:
            redirected = False
        else:
            part.append(word)
