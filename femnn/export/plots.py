"""Figures of learned laws.  Needs matplotlib, which femnn does not install by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from femnn.coefficient.coefficient import NeuralCoefficient
from femnn.evaluation.arrays import evaluate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Law = Callable[[np.ndarray], np.ndarray]
MARGIN = 0.1  # of the visited range, drawn on both sides of it


def plot_law(
    law: nn.Module | NeuralCoefficient | Law,
    range: Sequence[float] | None = None,
    *,
    visited: NeuralCoefficient | Sequence[float] | np.ndarray | None = None,
    truth: Law | None = None,
    band: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None,
    ax: Axes | None = None,
    label: str = "learned",
    n: int = 400,
    **style: Any,
) -> Axes:
    """Draw a law of one input, with the range that data could teach it shaded.

    Outside the range that a model has visited a network is a guess, so a figure of a law should
    show where that range ends.  The legend stands above the axes.  For a second law call it again
    with the same ``ax``, without ``truth`` and ``visited``.

    Parameters
    ----------
    law
        A network with one input and one output, a coefficient of such a network, or a function
        that maps an array of shape ``(n,)`` to one.
    range
        ``(lower, upper)`` of the input, in its units.  By default that of ``ax``, where something
        is drawn there already, else the visited range and a tenth of it on both sides.
    visited
        The range to shade: a pair ``(lower, upper)``, an array of values between whose smallest
        and largest it lies (as the rank that draws has them), or a coefficient, for the range of
        its operand over all ranks.  By default that of ``law``, where it is a coefficient.
    truth
        The true law, where it is known: a function of an array of shape ``(n,)``.
    band
        How sure the law is: a function of an array of shape ``(n,)`` that gives the lower and the
        upper ends, each of this shape.
    ax
        matplotlib axes to draw on; by default those of a new figure.
    label
        The law's name in the legend.
    n
        Number of points of the lines.
    **style
        More for :meth:`matplotlib.axes.Axes.plot`, for the law's line.

    Returns
    -------
    matplotlib.axes.Axes
        The axes; ``ax.set(xlabel=..., ylabel=...)`` names the quantities.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError
        If ``law``, ``truth`` or ``band`` cannot be evaluated.
    ValueError
        If the law has not one input and one output, or no range is known.

    Notes
    -----
    Collective where a coefficient is given, as ``law`` or ``visited``: call it on all ranks
    then.  Otherwise any rank may call it alone.

    Examples
    --------
    >>> ax = plot_law(kappa, truth=lambda u: 1 + u**2)
    >>> ax.set(xlabel="u", ylabel="kappa(u)")

    With a posterior of :func:`femnn.laplace`:

    >>> ax = plot_law(kappa, band=lambda u: posterior.law(kappa, u).interval(0.9))
    """
    pyplot = pyplot_for("plot_law")
    curve, shaded = _curve(law), _visited(law, visited)
    points = np.linspace(*_limits(range, shaded, ax), n)
    values = _values("law", curve, points)
    true_values = None if truth is None else _values("truth", truth, points)
    ends = None if band is None else _ends(band, points)
    if ax is None:
        _, ax = pyplot.subplots(layout="constrained")
    if shaded is not None:
        ax.axvspan(*shaded, color="0.5", alpha=0.15, linewidth=0, zorder=0, label="visited range")
    if true_values is not None:
        ax.plot(points, true_values, "k", linewidth=4, alpha=0.35, label="truth")
    (drawn,) = ax.plot(points, values, label=label, **style)
    if ends is not None:
        color = drawn.get_color()
        ax.fill_between(points, *ends, color=color, alpha=0.25, linewidth=0, label=f"{label}: band")
    ax.margins(x=0)
    columns = len(ax.get_legend_handles_labels()[0])
    columns = columns if columns <= 3 else 2
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False)
    return ax


def pyplot_for(who: str) -> Any:
    """matplotlib.pyplot; an error that says how to get it."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            f"{who} draws with matplotlib, which is not installed: pip install femnn[demos]"
        ) from error
    return pyplot


def _curve(law: Any) -> Law:
    net = law.net if isinstance(law, NeuralCoefficient) else law
    if isinstance(net, nn.Module):
        return lambda points: evaluate(net, points)
    if callable(net):
        return net
    raise TypeError(
        f"plot_law: law is a {type(law).__name__}, wanted a torch module, a NeuralCoefficient or "
        "a function of an array."
    )


def _values(what: str, curve: Law, points: np.ndarray) -> np.ndarray:
    if not callable(curve):
        raise TypeError(f"plot_law: {what} is a {type(curve).__name__}, wanted a function.")
    values = np.asarray(curve(points), dtype=float)
    if values.shape not in ((), points.shape):
        raise ValueError(
            f"plot_law: {what} gives values of shape {values.shape} for {len(points)} points, "
            "wanted one value for each: a law of one input and one output. Of another, draw a "
            "function of one array, such as lambda x: femnn.evaluate(net, x, 0.5)[..., 0]."
        )
    return np.broadcast_to(values, points.shape)


def _ends(band: Any, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of a band."""
    if not callable(band):
        raise TypeError(f"plot_law: band is a {type(band).__name__}, wanted a function.")
    ends = np.asarray(band(points), dtype=float)
    if ends.shape != (2, len(points)):
        raise ValueError(
            f"plot_law: band gives values of shape {ends.shape} for {len(points)} points, wanted "
            "lower and upper ends, as posterior.law(kappa, x).interval(0.9) gives them."
        )
    return ends[0], ends[1]


def _visited(law: Any, visited: Any) -> tuple[float, float] | None:
    """The range to shade.  Collective where it is a coefficient's."""
    if visited is None and isinstance(law, NeuralCoefficient):
        visited = law
    if visited is None:
        return None
    if isinstance(visited, NeuralCoefficient):
        ranges = visited.visited()
        if len(ranges) != 1:
            raise ValueError(
                f"plot_law: {visited.name()} has {len(ranges)} inputs, wanted one. Draw a function "
                "of one array with visited=kappa.visited()[i] for input i."
            )
        visited = ranges
    values = np.asarray(visited, dtype=float)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError(
            "plot_law: visited is empty or holds values that are not finite: wanted a pair "
            "(lower, upper), or an array of values."
        )
    return float(values.min()), float(values.max())


def _limits(range: Any, shaded: tuple[float, float] | None, ax: Axes | None) -> tuple[float, float]:
    if range is not None:
        limits = np.asarray(range, dtype=float)
        if limits.shape != (2,) or not np.isfinite(limits).all() or limits[0] >= limits[1]:
            raise ValueError(
                f"plot_law: range={range!r}, wanted a pair (lower, upper) with lower < upper."
            )
        return float(limits[0]), float(limits[1])
    if ax is not None and ax.has_data():
        return ax.get_xlim()
    if shaded is None:
        raise ValueError(
            "plot_law: no range is known: give range=(lower, upper), or visited=, from which it "
            "follows."
        )
    lower, upper = shaded
    margin = MARGIN * (upper - lower) or MARGIN * max(abs(upper), 1.0)
    return lower - margin, upper + margin
