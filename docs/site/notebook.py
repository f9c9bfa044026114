"""A page as a Jupyter notebook: its text, and its blocks as cells."""

import json
import re
from typing import Any

from docs.site.pages import blocks

KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def notebook(text: str) -> str:
    """Return the notebook's file, version 4.5 of the format."""
    cells, at = [], 0
    for block in blocks(text):
        cells.append(_cell("markdown", text[at : block.start], len(cells)))
        if block.shown:
            cells.append(_cell("code", block.code, len(cells)))
        at = block.end
    cells.append(_cell("markdown", text[at:], len(cells)))
    cells = [cell for cell in cells if cell["source"]]
    content = {"cells": cells, "metadata": {"kernelspec": KERNEL}, "nbformat": 4}
    return json.dumps(content | {"nbformat_minor": 5}, indent=1) + "\n"


def _cell(kind: str, source: str, number: int) -> dict[str, Any]:
    source = re.sub(r"<!--.*?-->\n?", "", source, flags=re.DOTALL).strip()
    cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
    more = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return cell | {"source": source.splitlines(keepends=True)} | more
