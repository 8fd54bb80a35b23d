"""Pages of figures as one HTML file each: nothing is fetched, and whatever comes from outside is escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

_STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; } caption { text-align: left; padding: .3rem 0; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem; }
figure { margin: 0; } figure img { width: 100%; max-height: 20rem; object-fit: contain; border-radius: 4px; }
figcaption { font-size: .85rem; overflow-wrap: anywhere; }
@media print { .figures { grid-template-columns: repeat(3, 1fr); } figure { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Picture:
    """A JPEG and what it shows."""

    jpeg: bytes
    caption: str


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page of parts that the functions below made."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n"
    )


def text(words: str) -> str:
    """A paragraph."""
    return f"<p>{escape(words)}</p>"


def heading(words: str) -> str:
    """The heading of a section."""
    return f"<h2>{escape(words)}</h2>"


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table whose first column names its rows; whole numbers get their commas."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    lines = [f"<tr>{_cells(row)}</tr>" for row in rows]
    return (
        f'<div class="scroll" tabindex="0"><table>\n<caption>{escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(lines) + "\n</tbody>\n</table></div>"
    )


def gallery(pictures: Iterable[Picture]) -> str:
    """Pictures side by side."""
    return '<div class="figures">\n' + "\n".join(map(_figure, pictures)) + "\n</div>"


def _cells(row: Sequence[object]) -> str:
    name, *values = row
    cells = [f'<th scope="row">{escape(str(name))}</th>']
    cells += [
        f"<td>{value:,}</td>" if isinstance(value, int) else f"<td>{escape(str(value))}</td>"
        for value in values
    ]
    return "".join(cells)


def _figure(picture: Picture) -> str:
    data, said = base64.b64encode(picture.jpeg).decode(), escape(picture.caption)
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" alt="{said}" loading="lazy">'
        f"<figcaption>{said}</figcaption></figure>"
    )
