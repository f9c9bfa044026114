"""What the studies share: options, tables and how results are written."""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from firedrake import COMM_WORLD, Function, Mesh, MeshGeometry
from firedrake.adjoint import continue_annotation, pause_annotation, set_working_tape
from firedrake.mesh import plex_from_cell_list
from mpi4py import MPI

import femnn

RUNS = {
    "kappa_error": ("kappa error", ".2%"),
    "loss": ("loss", ".3e"),
    "iterations": ("iterations", "d"),
    "seconds": ("seconds", ".1f"),
}

Z90 = 1.645  # standard deviations on each side of a normal 90 % band

plt.rcParams.update({"font.size": 10, "axes.grid": True, "grid.alpha": 0.3, "figure.dpi": 130})


def command_line(study: str, about: str) -> argparse.ArgumentParser:
    """The parser of a study by its package's name, described by its docstring's first line."""
    parser = argparse.ArgumentParser(
        prog=f"python -m demos.studies.{study}",
        description=about.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    output = Path("output") / "studies" / study
    parser.add_argument("--output", type=Path, default=output, help="folder for the results")
    return parser


def options(
    study: str, about: str, cells: int | None, iterations: int, seed: int
) -> argparse.ArgumentParser:
    """The same with the options that most studies have; no cells where a file has the mesh."""
    parser = command_line(study, about)
    if cells is not None:
        parser.add_argument(
            "--cells", type=at_least(2), default=cells, help="cells along each side"
        )
    parser.add_argument(
        "--iterations", type=at_least(1), default=iterations, help="L-BFGS iterations at most"
    )
    parser.add_argument("--seed", type=at_least(0), default=seed, help="of weights and noise")
    return parser


def at_least(lower: int) -> Callable[[str], int]:
    """An argparse type: an integer that is not below ``lower``."""

    def integer(text: str) -> int:
        if not text.isdecimal() or int(text) < lower:
            raise argparse.ArgumentTypeError(f"got {text!r}, wanted an integer >= {lower}")
        return int(text)

    return integer


def rms(errors: np.ndarray) -> float:
    """Root mean square; NaN where there are none, or one is NaN."""
    return float(np.sqrt(np.mean(errors**2))) if np.size(errors) else float("nan")


def rms_of_known(errors: np.ndarray) -> float:
    """Root mean square, without gaps."""
    return float(np.sqrt(np.nanmean(errors**2)))


def relative_difference(found: np.ndarray, truth: np.ndarray) -> float:
    """Relative l2 difference: on a uniform grid the relative L2 error."""
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


def numbers_of(result: femnn.FitResult) -> dict:
    """A fit's outcome in what JSON can hold."""
    return {
        "loss": result.loss,
        "initial_loss": result.initial_loss,
        "iterations": result.iterations,
        "evaluations": result.evaluations,
        "reason": result.reason,
        "seconds": result.seconds,
        "history": [step.loss for step in result.history],
    }


def show(title: str, rows: dict[str, dict], columns: dict[str, tuple[str, str]] = RUNS) -> None:
    """Print a table on rank 0; columns map a key to its heading and format."""
    width = max(len(name) for name in rows)
    lines = [title, " " * width + "".join(f"{head:>16}" for head, _ in columns.values())]
    for name, row in rows.items():
        cells = (format(row[key], form) for key, (_, form) in columns.items())
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>16}" for cell in cells))
    if COMM_WORLD.rank == 0:
        print("\n".join(lines), flush=True)


def write_results(
    folder: Path,
    numbers: dict,
    figure: Callable[[], plt.Figure],
    networks: dict[str, torch.nn.Module],
    fields: list[Function],
) -> None:
    """Write results.json, figure.png, the networks and fields/fields.pvd, and say where."""
    femnn.save_results(folder, numbers, figure=figure, networks=networks, fields=fields)
    if COMM_WORLD.rank == 0:
        print(f"Figure, numbers, fields and networks: {folder}", flush=True)


def legend(panel: plt.Axes, meanings: dict[str, dict], ncols: int = 2) -> None:
    """Say above a panel, each once, what its colours and styles mean, by properties of a line."""
    lines = [plt.Line2D([], [], **{"color": "0.3", **style}) for style in meanings.values()]
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "frameon": False}
    panel.legend(lines, list(meanings), ncols=ncols, fontsize=9, **place)


def side_by_side(x: np.ndarray, n: int, apart: float, comm: MPI.Comm = COMM_WORLD) -> MeshGeometry:
    """A mesh of n separate intervals with nodes at ``x``, each ``apart`` from the one before.

    Their first ends are the boundary 1, their last ones 2.  A step of many columns costs nearly
    what one costs, and they do not touch each other.
    """
    cells = np.column_stack([np.arange(len(x) - 1), np.arange(1, len(x))])
    every_cell = np.concatenate([cells + i * len(x) for i in range(n)])
    every_x = np.concatenate([x + i * apart for i in range(n)])
    plex = plex_from_cell_list(1, every_cell, every_x[:, None], comm)
    plex.createLabel("Face Sets")
    first, last = plex.getDepthStratum(0)
    where = plex.getCoordinatesLocal().array.ravel()
    ends = {1: x[0] + apart * np.arange(n), 2: x[-1] + apart * np.arange(n)}
    for point, at in zip(range(first, last), where, strict=True):
        for mark, places in ends.items():
            if np.isclose(at, places, rtol=0, atol=1e-9 * apart).any():
                plex.setLabelValue("Face Sets", point, mark)
    return Mesh(plex, comm=comm)


@contextmanager
def recording() -> Iterator[None]:
    """A tape of its own."""
    with set_working_tape():
        continue_annotation()
        try:
            yield
        finally:
            pause_annotation()


def tell_evidence(posterior: femnn.LaplacePosterior) -> None:
    """Print what a round of ``fit_with_evidence`` has reached."""
    print(f"  log evidence {posterior.log_evidence:.1f}, {posterior}", flush=True)


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self):
        self.began = time.monotonic()

    def seconds(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self.began
