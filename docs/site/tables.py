"""Tables of sentences, which a phone cannot show side by side: their rows can be stacked.

Each cell gets its column's title, which the style sheet shows only where rows are stacked.
"""

from typing import Any

from docutils import nodes

LONG = 60  # characters of a cell that is no number or name


def label_cells(_app: Any, document: nodes.document) -> None:
    """Mark a page's tables of sentences in three or more columns, and label their cells."""
    for table in document.findall(nodes.table):
        heads = [row for head in table.findall(nodes.thead) for row in head.findall(nodes.row)]
        rows = [row for body in table.findall(nodes.tbody) for row in body.findall(nodes.row)]
        longest = max((len(cell.astext()) for row in rows for cell in row), default=0)
        if len(heads) == 1 and len(heads[0]) > 2 and longest > LONG:
            table["classes"].append("sentences")
            for row in rows:
                _label(heads[0], row)


def _label(titles: nodes.row, row: nodes.row) -> None:
    for title, cell in zip(titles, row, strict=True):
        if cell.children and title.astext():
            label = nodes.inline("", f"{title.astext()}: ", classes=["column"])
            cell.children[0].insert(0, label)
