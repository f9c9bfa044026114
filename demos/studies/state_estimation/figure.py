"""The figure of the study: the law, the state at the beginning, errors in time, a prediction."""

import matplotlib.pyplot as plt
import numpy as np

import femnn
from demos.studies.common import Z90

from .laws import Vegetated, band_of_law
from .model import HOUR
from .twin import PLACES, Twin

SHOWN = 8.7e3  # m from the sea: the place of the prediction that is drawn


def draw(twin: Twin, rows: dict[str, dict], learned: str, depths: np.ndarray) -> plt.Figure:
    """Law and initial state above, errors in time and a prediction below."""
    figure = plt.figure(figsize=(12, 10), layout="constrained")
    grid = figure.add_gridspec(3, 2)
    colours = dict(zip(rows, plt.cm.tab10.colors, strict=False))
    _draw_law(figure.add_subplot(grid[0, 0]), twin, rows, learned, depths, colours)
    _draw_state(figure.add_subplot(grid[0, 1]), twin, rows, learned, colours)
    _draw_errors(figure.add_subplot(grid[1, :]), twin, rows, colours)
    _draw_series(figure.add_subplot(grid[2, :]), twin, rows, learned, colours)
    return figure


def _draw_law(axis, twin, rows, learned, depths, colours) -> None:
    axis.plot(depths, femnn.evaluate(Vegetated(), depths), "k", label="truth")
    for name, row in rows.items():
        if row["weights"] and name != learned:
            found = femnn.evaluate(row["law"], depths)
            axis.plot(depths, found, "--", color=colours[name], label=name)
    row, colour = rows[learned], colours[learned]
    mean, lower, upper = band_of_law(row["posterior"], row["law"], depths)
    axis.fill_between(depths, lower, upper, color=colour, alpha=0.2, lw=0)
    seen = row["visited"].contains(depths)
    axis.plot(depths, np.where(seen, mean, np.nan), color=colour, label=learned)
    axis.plot(depths, mean, ":", color=colour)
    axis.set(yscale="log", xlabel="depth, m (dotted: not visited in the window)")
    axis.set(ylabel="Manning's n, s/m$^{1/3}$", ylim=(0.02, 0.2))
    axis.legend(fontsize=8)


def _draw_state(axis, twin, rows, learned, colours) -> None:
    x = PLACES / 1e3
    axis.plot(x, twin.level[0], "k", label="truth")
    for name, row in rows.items():
        run = row["run"]
        if name == learned:
            low, high = (run.level[0] + s * Z90 * run.level_std[0] for s in (-1, 1))
            axis.fill_between(x, low, high, color=colours[name], alpha=0.2, lw=0)
        axis.plot(x, run.level[0], ".-", color=colours[name], label=name, lw=0.8)
    axis.set(xlabel="km from the sea", ylabel="level at the beginning, m")
    axis.legend(fontsize=8)


def _draw_errors(axis, twin, rows, colours) -> None:
    hours = twin.times.readings / HOUR
    for name, row in rows.items():
        error = np.sqrt(((row["run"].level - twin.level) ** 2).mean(axis=1))
        axis.plot(hours, error, color=colours[name], label=name)
    _mark_tides(axis, twin)
    axis.set(yscale="log", xlabel="hours", ylabel="RMSE of the level, m")
    axis.legend(fontsize=8, ncols=3)


def _draw_series(axis, twin, rows, learned, colours) -> None:
    hours, i = twin.times.readings / HOUR, int(np.argmin(np.abs(PLACES - SHOWN)))
    run = rows[learned]["run"]
    width = Z90 * np.hypot(run.level_std[:, i], run.noise)
    for name in list(rows)[:-1]:
        if name != learned:
            axis.plot(hours, rows[name]["run"].level[:, i], color=colours[name], lw=0.8)
    low, high = run.level[:, i] - width, run.level[:, i] + width
    axis.fill_between(hours, low, high, color=colours[learned], alpha=0.3, lw=0)
    axis.plot(hours, run.level[:, i], color=colours[learned])
    axis.plot(hours, twin.level_held_out[:, i], "k.", ms=2)
    _mark_tides(axis, twin)
    axis.set(xlabel="hours", ylabel=f"level at {SHOWN / 1e3:g} km, m (dots: readings held out)")


def _mark_tides(axis, twin: Twin) -> None:
    for i, name in enumerate(twin.times.parts()):
        start = i * twin.times.window / HOUR
        axis.axvline(start, color="0.5", lw=0.8)
        where = axis.get_xaxis_transform()
        axis.text(start + 0.2, 0.02, name, fontsize=8, color="0.4", transform=where)
