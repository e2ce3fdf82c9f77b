"""The sections of a report, as Markdown and as a page of HTML."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dcd_components.tables import html_table, markdown_table

#: Characters of a line of a table, beyond which its columns go into another one, in Markdown and on the page.
LINE, PAGE_LINE = 115, 160
STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { margin-bottom: .2rem } h2 { margin: 2.5rem 0 .5rem; border-bottom: 2px solid #0072b2 }
p, figcaption { max-width: 60rem } figcaption { color: #555; font-size: .9rem }
nav a { margin-right: 1.2rem } a { color: #0072b2 }
.table { overflow-x: auto; margin: 1rem 0 }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
td, th { padding: .25rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top; text-align: left }
th { vertical-align: bottom; border-bottom: 2px solid #999 }
td:first-child, td[style*=right] { white-space: nowrap }
td:first-child { font-weight: 600 }
tbody tr:hover { background: #f3f7fa }
figure { margin: 1rem 0 } img { max-width: 100%; height: auto }
"""
PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
{style}</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


@dataclass(frozen=True)
class Table:
    """A table, whose first column says what each row is of.

    Args:
        rows: one a line.
        columns: heading and format by key, see :func:`.markdown_table`.
        caption: how it is to be read.
    """

    rows: Sequence[Mapping[str, Any]]
    columns: Mapping[str, tuple[str, str]]
    caption: str = ""

    def split(self, width: int) -> list[Table]:
        """The same in several tables, each with the first column, where one would have more characters in a line."""
        first, *others = self.columns
        groups: list[list[str]] = [[]]
        for key in others:
            if groups[-1] and sum(map(self._width, (first, *groups[-1], key))) > width:
                groups.append([])
            groups[-1].append(key)
        tables = [Table(self.rows, {key: self.columns[key] for key in (first, *group)}) for group in groups]
        return [*tables[:-1], Table(self.rows, tables[-1].columns, self.caption)]

    def _width(self, column: str) -> int:
        """Characters of a column, whose heading may be broken between words."""
        heading, style = self.columns[column]
        return 3 + max(*map(len, heading.split()), *(len(format(row[column], style)) for row in self.rows))


@dataclass(frozen=True)
class Picture:
    """A picture beside the page, and how it is to be read."""

    name: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of a report under a heading of its own."""

    title: str
    parts: Sequence[str | Table | Picture]


def markdown(sections: Sequence[Section]) -> str:
    """Headings, texts and tables; the pictures are on the page of HTML."""
    parts: list[str] = []
    for section in sections:
        texts = [text for part in section.parts for text in _markdown(part)]
        parts += [f"## {section.title}", *texts] if texts else []
    return "\n\n".join(parts)


def _markdown(part: str | Table | Picture) -> Iterator[str]:
    if isinstance(part, str):
        yield textwrap.fill(part, 120, break_long_words=False, break_on_hyphens=False)
    elif isinstance(part, Table):
        for table in part.split(LINE):
            yield markdown_table(table.rows, table.columns)
        if part.caption:
            yield from _markdown(part.caption)


def page(title: str, sections: Sequence[Section]) -> str:
    """A page of HTML that shows the pictures beside it."""
    names = [section.title.lower().replace(" ", "-") for section in sections]
    links = [f'<a href="#{name}">{html.escape(one.title)}</a>' for name, one in zip(names, sections, strict=True)]
    parts = [f"<nav>{' '.join(links)}</nav>"]
    for name, section in zip(names, sections, strict=True):
        parts += [f'<h2 id="{name}">{html.escape(section.title)}</h2>']
        parts += [line for part in section.parts for line in _html(part)]
    return PAGE.format(title=html.escape(title), style=STYLE, body="\n".join(parts))


def _html(part: str | Table | Picture) -> Iterator[str]:
    if isinstance(part, str):
        yield f"<p>{html.escape(part)}</p>"
    elif isinstance(part, Table):
        tables = "".join(
            f'<div class="table">{html_table(one.rows, one.columns)}</div>' for one in part.split(PAGE_LINE)
        )
        yield f"<figure>{tables}{_caption(part.caption)}</figure>"
    else:
        image = f'<a href="{part.name}"><img src="{part.name}" alt="{html.escape(part.caption)}"></a>'
        yield f"<figure>{image}{_caption(part.caption)}</figure>"


def _caption(text: str) -> str:
    return f"<figcaption>{html.escape(text)}</figcaption>" if text else ""
