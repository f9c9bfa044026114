"""A report as one HTML file with its figures inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th, td { padding: .15rem .8rem .15rem 0; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
.scroll { max-height: 22rem; overflow: auto; }
.findings { background: #fff4e0; border-left: 4px solid #e09a20; padding: .6rem 1rem; }
.good { background: #eaf6ea; border-left: 4px solid #4a9c4a; padding: .6rem 1rem; }
"""


def html(title: str, sections: Sequence[tuple[str, Sequence[str]]]) -> str:
    """The page.

    Parameters
    ----------
    title
        Its title.
    sections
        Headings with pieces of HTML.
    """
    body = "".join(
        f"<h2>{escape(heading)}</h2>\n" + "\n".join(pieces) + "\n" for heading, pieces in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n{body}</body></html>\n"
    )


def image(figure: Any, alt: str) -> str:
    """A matplotlib figure, embedded."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<p><img alt="{escape(alt, quote=True)}" src="data:image/png;base64,{data}"></p>'


def text(sentence: str) -> str:
    """A paragraph."""
    return f"<p>{escape(sentence)}</p>"


def listed(sentences: Sequence[str], kind: str) -> str:
    """Sentences in a box."""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<div class="{kind}"><ul>{items}</ul></div>'


def table(
    rows: Sequence[str], columns: Mapping[str, Any], units: Mapping[str, str] | None = None
) -> str:
    """A table of numbers.

    Parameters
    ----------
    rows
        The rows' names.
    columns
        Name to numbers, one for each row.
    units
        Column to unit, where it has one.
    """
    units = units or {}
    heads = [f"{name} [{units[name]}]" if name in units else name for name in columns]
    top = "".join(f"<th>{escape(head)}</th>" for head in ("", *heads))
    lines = [
        f"<tr><td>{escape(row)}</td>"
        + "".join(f"<td>{number(column[i])}</td>" for column in columns.values())
        + "</tr>"
        for i, row in enumerate(rows)
    ]
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def number(value: Any) -> str:
    """A number as it is shown."""
    if isinstance(value, (int, np.integer)):
        return str(value)
    return "-" if value is None or not np.isfinite(value) else f"{value:.4g}"
