"""HTML from texts that may contain anything: every text is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

STYLE = Path(__file__).with_name("style.css")
# The file asks for nothing and runs nothing, whatever stands in a name.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def document(title: str, body: str) -> str:
    """Return a whole page with its style in it. body: HTML."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE.read_text('utf-8')}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph of a class of the style."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Return names and their values as a table."""
    lines = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows)
    return f'<table class="facts"><tbody>{lines}</tbody></table>'


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with a head, whose rows become blocks of named values where there is little room."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="number" data-name="{escape(name)}"><span>{escape(value)}</span></td>'
            for name, value in zip(columns, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f'<table class="stack"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def picture(source: str, text: str, kind: str) -> str:
    """Return an image by its data URL. text: what it shows."""
    return f'<img class="{kind}" src="{escape(source)}" alt="{escape(text)}">'


def figure(title: str, content: str) -> str:
    """Return a drawing under its title. content: HTML."""
    return f'<figure class="part"><h3>{escape(title)}</h3>{content}</figure>'
