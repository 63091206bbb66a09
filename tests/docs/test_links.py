"""Every link of the documents leads to a file, and to a heading of it."""

from __future__ import annotations

import pytest

from support.documents import DESIGN, GUIDES, LAUNCH, ROOT, anchors, links, read

LINKING = [
    *GUIDES, *DESIGN, *LAUNCH, "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "PAPER.md", "SECURITY.md",
    "benchmarks/README.md", "shards/README.md",
]  # fmt: skip


def test_anchors_are_githubs() -> None:
    text = "# A b\n## 3.1 ReLU nonlinearity\n## The `x_y` key, now?\n```sh\n# no heading\n```\n## A b\n## A b\n"
    assert anchors(text) == {"a-b", "31-relu-nonlinearity", "the-x_y-key-now", "a-b-1", "a-b-2"}


@pytest.mark.parametrize("document", LINKING)
def test_every_link_leads_somewhere(document: str) -> None:
    broken = []
    for link in links(document):
        name, _, anchor = link.partition("#")
        target = (ROOT / document).parent / name if name else ROOT / document
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    assert broken == []


def test_every_guide_can_be_reached() -> None:
    """From README.md by links, at most two away."""
    reached = {"README.md"}
    for _ in range(2):
        for document in sorted(reached):
            names = [link.partition("#")[0] for link in links(document) if ".md" in link]
            found = [((ROOT / document).parent / name).resolve().relative_to(ROOT) for name in names if name]
            reached |= {str(path) for path in found}
    assert {*GUIDES, *DESIGN, *LAUNCH} <= reached


def test_the_site_has_every_page() -> None:
    site = read("docs/zensical.toml")
    assert [page for page in LINKING if f'"{page}"' not in site] == []
