"""A learned law as a table, for programs that know no networks."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from mpi4py import MPI
from torch import nn

from femnn.atomic import atomic_file
from femnn.evaluation.evaluator import PointEvaluator
from femnn.parallel import on_rank_zero

MAX_ROWS = 10_000_000


def save_table(
    net: nn.Module,
    path: str | Path,
    ranges: Mapping[str, Sequence[float] | float],
    outputs: Sequence[str],
    n: int | Sequence[int] = 101,
    units: Mapping[str, str] | None = None,
    comm: MPI.Comm = MPI.COMM_WORLD,
) -> None:
    """Write a law's values over a grid of its inputs as a CSV file.  Collective.

    One row for each point of the grid, the last input changing fastest, with all digits;
    the first line names the columns.  The file appears only when it is complete.

    Parameters
    ----------
    net
        A module that maps ``(points, inputs)`` to ``(points, outputs)``.
    path
        Where to.
    ranges
        Name and ``(lower, upper)`` of each input, in the order of the inputs; a single
        number keeps an input fixed.
    outputs
        Names of the outputs.
    n
        Number of values of each input that is not fixed: one number, or one for each of them.
    units
        Units of inputs and outputs by their names, written behind the names in brackets.
    comm
        Ranks that call.

    Raises
    ------
    TypeError
        If ranges are no mapping, or the outputs' names no sequence of names.
    ValueError
        If ranges, names or units do not fit the network, or a value is not finite.

    Examples
    --------
    >>> units = {"T": "K", "kappa": "W/(m K)"}
    >>> save_table(net, "kappa.csv", {"T": (250, 320)}, ["kappa"], units=units)  # doctest: +SKIP
    """
    if not isinstance(ranges, Mapping) or isinstance(outputs, str):
        raise TypeError(
            f"save_table got ranges={ranges!r} and outputs={outputs!r}: wanted a dict with the "
            "range of each input by its name, and a list of names, as in {'T': (250, 320)} and "
            "['kappa']."
        )

    def write() -> None:
        points = _grid(ranges, n)
        values = _evaluate(net, points, outputs)
        header = _header([*ranges, *outputs], units or {})
        with atomic_file(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(np.hstack([points, values]).tolist())

    on_rank_zero(comm, write)


def _grid(ranges: Mapping[str, Sequence[float] | float], n: int | Sequence[int]) -> np.ndarray:
    """All points of the grid, shape ``(rows, inputs)``."""
    limits = {name: np.atleast_1d(np.asarray(r, dtype=float)) for name, r in ranges.items()}
    for name, r in limits.items():
        if not np.isfinite(r).all() or not (len(r) == 1 or (len(r) == 2 and r[0] < r[1])):
            raise ValueError(
                f"save_table: ranges[{name!r}]={ranges[name]!r}, wanted a pair (lower, upper) with "
                "lower < upper, or one number."
            )
    moving = [name for name, r in limits.items() if len(r) == 2]
    counts = [n] * len(moving) if isinstance(n, int) else list(n)
    if len(counts) != len(moving) or any(int(c) != c or c < 2 for c in counts):
        raise ValueError(
            f"save_table: n={n!r}, wanted a number of at least 2, or one for each of the "
            f"{len(moving)} inputs that are not fixed."
        )
    if math.prod(counts) > MAX_ROWS:
        raise ValueError(
            f"save_table: n={n!r} would give {math.prod(counts)} rows, more than {MAX_ROWS}: take "
            "a smaller n, or fix some inputs."
        )
    sizes = dict(zip(moving, counts, strict=True))
    axes = [np.linspace(r[0], r[-1], sizes.get(name, 1)) for name, r in limits.items()]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


def _evaluate(net: nn.Module, points: np.ndarray, outputs: Sequence[str]) -> np.ndarray:
    evaluator = PointEvaluator(net, points.shape[1])
    if evaluator.n_outputs != len(outputs):
        raise ValueError(
            f"save_table: the network has {evaluator.n_outputs} outputs, but outputs="
            f"{list(outputs)!r} names {len(outputs)}."
        )
    values = evaluator.value(points)
    bad = ~np.isfinite(values).all(1)
    if bad.any():
        raise ValueError(
            f"save_table: the network gives NaN or infinity at {points[bad][0].tolist()}; nothing "
            "was written. Take other ranges."
        )
    return values


def _header(names: Sequence[str], units: Mapping[str, str]) -> list[str]:
    unknown = [name for name in units if name not in names]
    if unknown or len(set(names)) < len(names):
        raise ValueError(
            f"save_table: the columns {list(names)!r} must have different names, and units "
            f"for no others (unknown: {unknown!r})."
        )
    return [f"{name} [{units[name]}]" if name in units else name for name in names]
