"""Figures of observations and what a model gives for them.  Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from femnn.export.plots import pyplot_for
from femnn.observation.observations import Observations

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 6  # places that can be told apart in one figure


def plot_observations(
    data: Observations,
    model: Any = None,
    *,
    names: Sequence[str] | None = None,
    time_unit: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw observations with their errors, and the model's values for them.

    With times: over time, a colour for each place, the model as a line through the times of data.
    Without: the model's values over the data, with the line on which both are the same.

    Parameters
    ----------
    data
        The observations.
    model
        The model's values, of the shape of ``data.values``: ``observe.model``, or ``data.at(u)`` of
        a steady model, which needs it.
    names
        Places to draw; by default all, with times the first six that have data.
    time_unit
        The unit of time, for the axis.
    ax
        matplotlib axes to draw on; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes, with the data's name and unit on them.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If the model's values have another shape, a name is not one of the data, data are vectors,
        or a steady model's values are missing.

    Examples
    --------
    >>> ax = plot_observations(unseen, observe.model, time_unit="d")
    """
    pyplot = pyplot_for("plot_observations")
    values, std, places = data.values, data.std, _places(data, names)
    model = None if model is None else np.asarray(model, dtype=float)
    _check(data, model)
    if ax is None:
        _, ax = pyplot.subplots(layout="constrained")
    if data.times is None:
        _draw_steady(ax, values[places], std[places], model[places])
    else:
        for i in places:
            _draw_in_time(ax, data, i, model)
    label = f"{data.name or 'observed'}{f' [{data.units}]' if data.units else ''}"
    if data.times is None:
        ax.set(xlabel=f"{label}, observed", ylabel=f"{label}, model")
    else:
        ax.set(xlabel=f"t [{time_unit}]" if time_unit else "t", ylabel=label)
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    return ax


def _draw_steady(ax: Axes, values: np.ndarray, std: np.ndarray, model: np.ndarray) -> None:
    both = np.concatenate([values, model])
    ends = np.nanmin(both), np.nanmax(both)
    ax.plot(ends, ends, color="0.6", linewidth=1, label="the same")
    ax.errorbar(values, model, xerr=std, fmt="o", markersize=4, linewidth=1, label="stations")


def _draw_in_time(ax: Axes, data: Observations, i: int, model: np.ndarray | None) -> None:
    values, name = data.values[:, i], data.names[i]
    seen = ~np.isnan(values)
    times, std = np.asarray(data.times)[seen], data.std[seen, i]
    style: dict[str, Any] = {"fmt": "o", "markersize": 3, "linewidth": 1}
    drawn = ax.errorbar(times, values[seen], yerr=std, label=name, **style)
    if model is not None:
        ax.plot(times, model[seen, i], color=drawn[0].get_color(), linewidth=1.5)


def _places(data: Observations, names: Sequence[str] | None) -> list[int]:
    if names is not None:
        unknown = [name for name in names if name not in data.names]
        if unknown:
            raise ValueError(
                f"plot_observations got names={unknown!r}, which are not among {data.names}."
            )
        return [data.names.index(name) for name in names]
    if data.times is None:
        return list(range(len(data.names)))
    seen = ~np.isnan(data.values).all(0)
    return [i for i in range(len(data.names)) if seen[i].all()][:MOST]


def _check(data: Observations, model: np.ndarray | None) -> None:
    if data.values.ndim != (1 if data.times is None else 2):
        raise ValueError(
            "plot_observations: the data are vectors: observe one component, as in u[0]."
        )
    if model is None and data.times is None:
        raise ValueError(
            "plot_observations: without times it draws the model over the data: give data.at(u)."
        )
    if model is not None and model.shape != data.values.shape:
        raise ValueError(
            f"plot_observations got model values of shape {model.shape}: wanted "
            f"{data.values.shape}, the data's."
        )
