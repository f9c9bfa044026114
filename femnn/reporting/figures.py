"""The figures of a report, each a matplotlib figure of its own.  Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from femnn.export.observed import plot_observations
from femnn.export.plots import plot_law
from femnn.observation.observations import Observations

ABOVE: dict[str, Any] = {
    "loc": "lower left",
    "bbox_to_anchor": (0, 1),
    "frameon": False,
    "ncols": 3,
}
MOST_PLACES = 30  # whose names can be read below an axis


def figure_of(n: int, width: float = 4.6, height: float = 3.6) -> tuple[Any, Any]:
    """A figure with axes side by side, which no window shows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * n, height), layout="constrained")
    return figure, figure.subplots(1, n, squeeze=False)[0]


def of_law(name: str, known: Mapping[str, Any], inputs: list[str], level: float) -> Any:
    """A law along each of its inputs."""
    lines = known["lines"]
    figure, axes = figure_of(len(lines), 5.2 if len(lines) == 1 else 4.4, 3.8)
    for ax, line, span, label in zip(axes, lines, known["visited"], inputs, strict=True):
        if np.ndim(line["value"]) == 1:
            _draw_line(ax, line, span, level)
        else:
            _draw_outputs(ax, line, span)
        ax.set(xlabel=label, ylabel=name)
    return figure


def _draw_line(ax: Any, line: Mapping[str, Any], span: np.ndarray, level: float) -> None:
    x = line["x"]

    def along(values: np.ndarray) -> Any:
        return lambda points: np.interp(points, x, values)

    band = None
    if "lower" in line:

        def band(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return along(line["lower"])(points), along(line["upper"])(points)

    truth = along(line["truth"]) if "truth" in line else None
    plot_law(along(line["value"]), (x[0], x[-1]), visited=span, truth=truth, band=band, ax=ax)
    if band is not None:
        ax.get_legend().get_texts()[-1].set_text(f"{level:.0%} band")


def _draw_outputs(ax: Any, line: Mapping[str, Any], span: np.ndarray) -> None:
    shade = {"color": "0.5", "alpha": 0.15, "linewidth": 0, "zorder": 0}
    ax.axvspan(*span, label="visited range", **shade)
    for j in range(line["value"].shape[1]):
        (drawn,) = ax.plot(line["x"], line["value"][:, j], label=f"output {j}")
        if "lower" in line:
            ends = line["lower"][:, j], line["upper"][:, j]
            ax.fill_between(line["x"], *ends, color=drawn.get_color(), alpha=0.25, linewidth=0)
        if "truth" in line:
            ax.plot(line["x"], line["truth"][:, j], "k", linewidth=4, alpha=0.25, zorder=0)
    ax.legend(**ABOVE)


def of_data(data: Observations, model: np.ndarray, known: Mapping[str, Any]) -> Any:
    """Data and model, weighted residuals by place, and their autocorrelation or distribution."""
    figure, (values, places, more) = figure_of(3)
    is_scalar = data.values.ndim == (1 if data.times is None else 2)
    if is_scalar:
        plot_observations(data, model, ax=values)
    else:
        _draw_all(values, data, model)
    _draw_places(places, known)
    if known["in_time"]:
        _draw_autocorrelation(more, known["in_time"])
    else:
        _draw_distribution(more, data.residuals(model))
    return figure


def _draw_all(ax: Any, data: Observations, model: np.ndarray) -> None:
    """Values of vectors: the model's over the data's."""
    ax.plot(data.values.ravel(), np.asarray(model).ravel(), ".", markersize=3)
    ends = np.nanmin(data.values), np.nanmax(data.values)
    ax.plot(ends, ends, color="0.6", linewidth=1)
    ax.set(xlabel=f"{known_as(data)}, observed", ylabel=f"{known_as(data)}, model")


def known_as(data: Observations) -> str:
    """What was measured, with its unit."""
    return f"{data.name or 'observed'}{f' [{data.units}]' if data.units else ''}"


def _draw_places(ax: Any, known: Mapping[str, Any]) -> None:
    columns, n = known["by_place"], len(known["names"])
    at = np.arange(n)
    size = {"markersize": 5 if n <= MOST_PLACES else 2}
    ax.axhline(0, color="0.6", linewidth=1)
    if max(columns["n"]) > 1:
        ax.axhline(1, color="0.6", linewidth=1)
        ax.plot(at, columns["rms"], "o", label="root mean square", **size)
        ax.plot(at, columns["mean"], "x", label="mean", **size)
        ax.legend(**ABOVE)
    else:
        ax.plot(at, columns["mean"], "o", **size)
    ax.set(xlabel="place", ylabel="weighted residual")
    if n <= MOST_PLACES:
        ax.set_xticks(at, known["names"], rotation=90, fontsize=7)


def _draw_autocorrelation(ax: Any, lags: list[Mapping[str, Any]]) -> None:
    at = np.arange(1, len(lags) + 1)
    bound = 2 / np.sqrt([lag["pairs"] for lag in lags])
    ax.fill_between(at, -bound, bound, color="0.5", alpha=0.2, linewidth=0, label="if independent")
    ax.plot(at, [lag["value"] for lag in lags], "o-", markersize=4, label="weighted residuals")
    ax.axhline(0, color="0.6", linewidth=1)
    ax.set(xlabel="lag (readings)", ylabel="autocorrelation", ylim=(-1, 1.05))
    _count_along(ax)
    ax.legend(**ABOVE)


def _draw_distribution(ax: Any, residuals: np.ndarray) -> None:
    found = residuals[~np.isnan(residuals)]
    bins = int(np.clip(np.sqrt(len(found)), 5, 40))
    ax.hist(found, bins=bins, density=True, alpha=0.5, label="weighted residuals")
    x = np.linspace(min(-3.5, found.min()), max(3.5, found.max()), 200)
    ax.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), "k", label="normal")
    ax.set(xlabel="weighted residual", ylabel="density")
    ax.legend(**ABOVE)


def of_spectrum(known: Mapping[str, Any]) -> Any:
    """Eigenvalues of the data's information in the prior's units."""
    figure, (ax,) = figure_of(1, 5.2)
    spectrum = np.asarray(known["spectrum"])
    shown = spectrum[spectrum > 1e-6 * max(1.0, spectrum.max(initial=0.0))]
    ax.semilogy(np.arange(1, len(shown) + 1), shown, ".-", label="eigenvalues")
    ax.axhline(1, color="0.6", linewidth=1, label="data and prior alike")
    ax.set(xlabel="direction", ylabel="information of data / of prior")
    _count_along(ax)
    ax.legend(**ABOVE)
    return figure


def of_training(known: Mapping[str, Any]) -> Any:
    """The loss over the iterations."""
    figure, (ax,) = figure_of(1, 5.2)
    loss = np.asarray(known["loss"])
    draw = ax.semilogy if (loss > 0).all() else ax.plot
    draw(np.arange(len(loss)), loss, ".-")
    ax.set(xlabel="iteration", ylabel="loss")
    _count_along(ax)
    return figure


def _count_along(ax: Any) -> None:
    """Whole numbers along the axis."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
