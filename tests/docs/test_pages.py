"""All code of the documentation, at reduced size; and what runs it."""

import re
from pathlib import Path

import firedrake  # noqa: F401
import irksome  # noqa: F401  before any page makes a form
import pytest

import femnn
from docs.site import gallery, notebook, pages
from docs.site.pages import blocks, resized, run

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(DOCS)): path.read_text() for path in sorted(DOCS.rglob("*.md"))}

# Sizes to run with; the checks in the pages hold with these too.
SIZES = {
    "guides/how_do_i.md": {},
    "guides/scaling.md": {"CELLS": 10, "ITERATIONS": 40},
    "guides/solvers.md": {"CELLS": 8},
    "posterior.md": {},
    "regularisation.md": {},
    "time.md": {"N": 6, "end": 0.2},
    "tutorials/believe.md": {"CELLS": 12, "ROUNDS": 4},
    "tutorials/cluster.md": {"CELLS": 8, "ITERATIONS": 18},
    "tutorials/facets.md": {"CELLS": 4, "POWERS": (0.5, 2.0), "ITERATIONS": 40},
    "tutorials/formula.md": {"CELLS": 8, "SENSORS": 60},
    "tutorials/guarantees.md": {"CELLS": 6, "SENSORS": 20, "ITERATIONS": 15},
    "tutorials/law_firedrake.md": {"CELLS": 10},
    "tutorials/law_torch.md": {"CELLS": 4, "SENSORS": 9, "EPOCHS": 20},
    "tutorials/optimisers.md": {"CELLS": 5, "BUDGET": 450},
    "tutorials/outside.md": {"FIELDS": 6, "DAYS": 4, "EPOCHS": 5},
    "tutorials/sites.md": {"SITES": 7, "ITERATIONS": 5},
    "tutorials/splitting.md": {"CELLS": 5, "STEPS": 4, "ITERATIONS": 20},
    "tutorials/time.md": {"CELLS": 8, "STEPS": 6, "SENSORS": 4, "TIMES": 8, "ITERATIONS": 15},
    "tutorials/wells.md": {"CELLS": 10},
}


@pytest.mark.parametrize("page", SIZES)
def test_page(page, tmp_path):
    text = resized(PAGES[page], SIZES[page])
    outputs = run(text, str(DOCS / page), tmp_path)
    assert len(outputs) == len(blocks(text))


def test_every_page_with_code_is_run():
    assert sorted(SIZES) == [page for page, text in PAGES.items() if "```python" in text]


@pytest.mark.parametrize("page", PAGES)
def test_code_is_fenced_as_what_is_run_or_as_what_is_not(page):
    """No block passes for code that nobody has run."""
    opened = re.findall(r"^[ ]*```(.*)$", PAGES[page], re.MULTILINE)[::2]
    assert set(opened) <= {"python", "sh", "text", "{toctree}", "{eval-rst}"}


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("tutorials/")])
def test_tutorials_end_with_ones_own_problem(page):
    headings = re.findall(r"^## (.*)$", PAGES[page], re.MULTILINE)
    assert page == "tutorials/index.md" or headings[-1] == "For your own problem"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    prose = pages.BLOCK.sub("", PAGES[page])
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", prose)
    assert [to for to in links if not (DOCS / page).parent.joinpath(to).exists()] == []


def test_the_reference_has_every_public_name():
    text = "".join(text for page, text in PAGES.items() if page.startswith("api/"))
    named = re.findall(r"^\.\. auto(class|function):: femnn\.(\w+)$", text, re.MULTILINE)
    assert sorted(name for _, name in named) == sorted(femnn.__all__)
    assert {
        n for kind, n in named if (kind == "class") != isinstance(getattr(femnn, n), type)
    } == set()


def test_the_gallery_has_a_figure_of_each_demo_and_study(monkeypatch, tmp_path):
    monkeypatch.setattr(gallery, "demo_figure", lambda name, folder: folder / name)
    text = gallery.with_figures(PAGES["gallery.md"], tmp_path, tmp_path)
    shown = re.findall(r"^!\[What the (?:demo|study) (\w+) draws\]\((.*?)\)$", text, re.MULTILINE)
    assert sorted(to for _, to in shown if "/" not in to) == sorted(gallery.DEMOS)
    studies = {path.parent.name for path in ROOT.glob("demos/studies/*/__main__.py")}
    pages = {path.stem for path in ROOT.glob("docs/studies/*.md")}
    known = {*gallery.STUDIES, *pages}
    assert {name for name, to in shown if "/" in to} == studies == known


def test_errors_in_the_guide_are_those_of_the_library():
    source = "".join(path.read_text() for path in (ROOT / "femnn").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source) + "Nonlinear solve failed to converge"
    table = PAGES["guides/wrong.md"].split("## Errors")[1].split("\n## ")[0]
    told = re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)
    assert told
    assert [text for text in told if text not in source] == []


PAGE = """# A page

```python
SIZE = 3  # to be changed
print("size", SIZE)
```

<!-- python
import matplotlib.pyplot as plt
plt.plot([0, SIZE])
plt.gca().set(xlabel="t", ylabel="u")
-->

```sh
not run
```
"""


class TestRunner:
    def test_prints_and_figures_are_kept_block_by_block(self, tmp_path):
        before = Path.cwd()
        first, second = run(resized(PAGE, {"SIZE": 5}), "page.md", tmp_path)
        assert first == pages.Output("size 5\n", [])
        ((path, what),) = second.figures
        assert path.read_bytes().startswith(b"\x89PNG")
        assert what == "Figure: u against t"
        assert Path.cwd() == before

    def test_errors_name_page_and_line(self, tmp_path):
        with pytest.raises(ZeroDivisionError) as caught:
            run(PAGE + "\n```python\n1 / 0\n```\n", "page.md", tmp_path)
        last = caught.traceback[-1]
        assert (str(last.path).endswith("page.md"), last.lineno + 1) == (True, 19)

    @pytest.mark.parametrize("text", [PAGE, PAGE.replace("SIZE = 3", "SIZE = 3\nSIZE = 4")])
    def test_a_size_must_stand_once(self, text):
        name = "OTHER" if text is PAGE else "SIZE"
        with pytest.raises(ValueError, match=f"sets {name} [02] times"):
            resized(text, {name: 1})

    def test_site_sets_outputs_below_the_blocks_that_are_seen(self, tmp_path):
        from docs.site.extension import with_outputs

        text = PAGE.replace("<!-- python", "```python").replace("-->", "```")
        site = with_outputs(text, run(text, "page.md", tmp_path / "runs"), tmp_path)
        assert "```{code-block} text\n:class: output\n\nsize 3\n```" in site
        assert site.index("plt.plot") < site.index("![Figure: u against t](runs/figure-1-0.png)")
        hidden = with_outputs(PAGE, run(PAGE, "page.md", tmp_path / "runs"), tmp_path)
        assert "figure-1" not in hidden

    def test_notebook_has_text_and_blocks_that_are_seen(self):
        import json

        cells = json.loads(notebook.notebook(PAGE))["cells"]
        assert [cell["cell_type"] for cell in cells] == ["markdown", "code", "markdown"]
        assert "".join(cells[1]["source"]).startswith("SIZE = 3")
        assert "matplotlib" not in str(cells)


def test_cells_of_tables_of_sentences_say_their_column():
    from docutils import nodes
    from docutils.core import publish_doctree

    from docs.site.tables import label_cells

    long = " ".join(["word"] * 20)
    table = ".. list-table::\n   :header-rows: 1\n\n   * - tool\n     - what\n     - why\n"
    document = publish_doctree(
        f"{table}   * - a\n     - {long}\n     - c\n\n{table}   * - 1\n     - 2\n     - 3\n"
    )
    label_cells(None, document)
    sentences, numbers = document.findall(nodes.table)
    assert sentences["classes"] == ["sentences"]
    assert "what: word" in sentences.astext()
    assert "what: " not in numbers.astext()
