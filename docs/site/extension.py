"""Sphinx's part: runs a page's blocks when it is read, and sets what they give beside them."""

import os
from pathlib import Path
from typing import Any

from sphinx.errors import ExtensionError

from docs.site import gallery, pages
from docs.site.notebook import notebook
from docs.site.tables import label_cells


def setup(app: Any) -> dict[str, Any]:
    """Connect to Sphinx."""
    app.add_config_value("run_pages", True, "env", [bool])
    app.connect("source-read", read)
    app.connect("doctree-read", label_cells)
    app.connect("build-finished", write_notebooks)
    return {"parallel_read_safe": False, "parallel_write_safe": True}


def read(app: Any, name: str, content: list[str]) -> None:
    """Run a page, and put printed text and figures after each block that is seen.

    Where ``run_pages`` is off the page is as it stands: for checks of all but its code.
    """
    if not app.config.run_pages:
        return
    page = Path(app.env.doc2path(name))
    if name == "gallery":
        folder = Path(app.doctreedir).parent / "gallery"
        content[0] = gallery.with_figures(content[0], folder, page.parent)
        return
    if page.suffix != ".md" or not pages.blocks(content[0]):
        return
    folder = Path(app.doctreedir).parent / "runs" / name
    try:
        outputs = pages.run(content[0], str(page), folder)
    except Exception as error:
        raise ExtensionError(f"{name}: a block failed: {error!r}", error) from error
    content[0] = with_outputs(content[0], outputs, page.parent)


def with_outputs(text: str, outputs: list[pages.Output], folder: Path) -> str:
    """Return the page's text with what its blocks gave; figures by their way from the folder."""
    pieces, at = [], 0
    for block, output in zip(pages.blocks(text), outputs, strict=True):
        pieces.append(text[at : block.end])
        at = block.end
        if block.shown:
            pieces.append(_shown(output, folder))
    return "".join([*pieces, text[at:]])


def _shown(output: pages.Output, folder: Path) -> str:
    text = f"\n\n```{{code-block}} text\n:class: output\n\n{output.text}```\n"
    figures = [f"\n![{what}]({os.path.relpath(path, folder)})\n" for path, what in output.figures]
    return "".join([text if output.text.strip() else "\n", *figures])


def write_notebooks(app: Any, error: Exception | None) -> None:
    """Write the tutorials as notebooks beside their pages."""
    if error is not None or app.builder.format != "html":
        return
    for page in sorted((Path(app.srcdir) / "tutorials").glob("[!i]*.md")):
        target = Path(app.outdir) / "tutorials" / f"{page.stem}.ipynb"
        target.write_text(notebook(page.read_text()), encoding="utf-8")
