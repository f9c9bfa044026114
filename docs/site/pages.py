"""The python blocks of a page: found, given other sizes, and run in order as one script.

A block is fenced with ```` ```python ````.  One that is not to be seen, with what a fragment needs
before it or with a check of what it found, is a comment of the page: ``<!-- python`` to ``-->``.
"""

import contextlib
import io
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

BLOCK = re.compile(r"^(```|<!-- )python\n(.*?)^(```|-->)$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block: its code, whether a reader sees it, and where it stands in the page."""

    code: str
    shown: bool
    line: int
    start: int
    end: int


@dataclass(frozen=True)
class Output:
    """What a block has printed, and its figures with a description each."""

    text: str
    figures: list[tuple[Path, str]]


def blocks(text: str) -> list[Block]:
    """Return the blocks of a page in their order."""
    return [
        Block(m[2], m[1] == "```", text.count("\n", 0, m.start(2)) + 1, m.start(), m.end())
        for m in BLOCK.finditer(text)
    ]


def resized(text: str, sizes: Mapping[str, Any]) -> str:
    """Return a page with other values for names that its blocks set, each once, on a line."""
    for name, value in sizes.items():
        text, n = re.subn(rf"^{name} = [^#\n]*", f"{name} = {value!r}  ", text, flags=re.MULTILINE)
        if n != 1:
            raise ValueError(f"the page sets {name} {n} times: wanted one line '{name} = ...'.")
    return text


def run(text: str, name: str, folder: Path) -> list[Output]:
    """Run a page's blocks, in a folder that takes their files and figures.

    Tracebacks name the page and the line.  The working folder, the tape and matplotlib's figures
    are left as they were found.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    outputs = []
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        for i, block in enumerate(blocks(text)):
            code = compile("\n" * (block.line - 1) + block.code, name, "exec")
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(code, names)
            outputs.append(Output(printed.getvalue(), _figures(folder, i)))
    return outputs


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Work in a folder, with a tape of one's own; leave no figure and no annotation behind."""
    from firedrake.adjoint import Tape, pause_annotation, set_working_tape
    from matplotlib import pyplot

    before = Path.cwd()
    os.chdir(folder)
    try:
        settings = {"backend": "Agg", "figure.constrained_layout.use": True}
        with matplotlib.rc_context(settings), set_working_tape(Tape()):
            yield
    finally:
        os.chdir(before)
        pyplot.close("all")
        pause_annotation()


def _figures(folder: Path, block: int) -> list[tuple[Path, str]]:
    from matplotlib import pyplot

    kept = []
    for i, number in enumerate(pyplot.get_fignums()):
        figure, path = pyplot.figure(number), folder / f"figure-{block}-{i}.png"
        figure.savefig(path, dpi=110)
        kept.append((path, _described(figure)))
    pyplot.close("all")
    return kept


def _described(figure: Any) -> str:
    """Say what a figure shows, for who cannot see it: by its titles and labels."""
    axes = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
    said = [ax.get_title() or f"{ax.get_ylabel()} against {ax.get_xlabel()}" for ax in axes]
    return re.sub(r"[\[\]\n]", " ", "Figure: " + "; ".join(said))
