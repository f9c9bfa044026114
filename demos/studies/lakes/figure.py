"""The figure of the study: the law, the errors by depth, and a prediction with its band."""

import matplotlib.pyplot as plt
import numpy as np

import femnn
from demos.studies.common import Z90

from .data import Lake
from .laws import LEAST

WINDS = {2.0: "tab:blue", 4.0: "tab:green", 7.0: "tab:red"}  # m/s
LAW_DEPTHS = (5.0, 15.0, 30.0)  # m


def draw(lake: Lake, rows: dict[str, dict], bands: dict) -> plt.Figure:
    """The law at three depths above, the held-out years below."""
    figure = plt.figure(figsize=(12, 9), layout="constrained")
    grid = figure.add_gridspec(2, 3)
    shared = None
    for i, depth in enumerate(LAW_DEPTHS):
        shared = figure.add_subplot(grid[0, i], sharey=shared)
        _draw_law(shared, rows, depth)
        shared.tick_params(labelleft=i == 0)
        if i == 0:
            shared.set_ylabel("K, m²/s")
            shared.legend(fontsize=8)
    _draw_depths(figure.add_subplot(grid[1, 0]), lake, rows)
    _draw_series(figure.add_subplot(grid[1, 1:]), lake, rows, bands)
    return figure


def _draw_law(axis, rows: dict[str, dict], depth: float) -> None:
    law, hand = rows["network"]["law"], rows["hand-made law"]["law"]
    visited, posterior = rows["network"]["visited"], rows["network"]["posterior"]
    log_N2 = np.linspace(LEAST, -2.5, 80)
    for wind, colour in WINDS.items():
        inputs = (depth, log_N2, *(wind for _ in law.winds))
        found = posterior.law(law, *inputs)
        relative = Z90 * found.std / found.mean
        seen = visited.contains(*inputs)
        axis.plot(log_N2, found.mean, ":", color=colour, lw=1)
        inside = np.where(seen, found.mean, np.nan)
        axis.plot(log_N2, inside, color=colour, label=f"wind of day and week {wind:g} m/s")
        lower, upper = inside * np.exp(-relative), inside * np.exp(relative)
        axis.fill_between(log_N2, lower, upper, color=colour, alpha=0.15, lw=0)
        by_hand = femnn.evaluate(hand, depth, log_N2, wind)
        axis.plot(log_N2, by_hand, "--", color=colour, lw=0.8, alpha=0.8)
    axis.set(yscale="log", ylim=(1e-8, 1e-1))
    axis.set(xlabel="log10 N² (dotted: not visited; dashed: by hand)")
    axis.set_title(f"Diffusivity at {depth:g} m", fontsize=10)


def _draw_depths(axis, lake: Lake, rows: dict[str, dict]) -> None:
    for name, row in rows.items():
        label = f"{name}: {row['held_out']:.2f} K"
        axis.plot(row["held_out_by_depth"], lake.depths[1:], marker=".", label=label)
    axis.invert_yaxis()
    axis.set(xlabel="RMSE in the held-out years, K", ylabel="depth, m", xlim=(0, None))
    axis.legend(fontsize=8)


def _draw_series(axis, lake: Lake, rows: dict[str, dict], bands: dict) -> None:
    """The first of the held-out years at two depths."""
    first, last = bands["rows"][0]
    part = slice(0, last - first + 1)
    days, measured = (x[first : last + 1] for x in (lake.days, lake.measured))
    for depth, colour in ((11.0, "tab:orange"), (27.0, "tab:blue")):
        column = int(np.argmin(np.abs(lake.depths[1:] - depth)))
        model, std = (bands[k][part, column] for k in ("model", "table"))
        width = Z90 * np.hypot(std, rows["network"]["noise"])
        axis.fill_between(days, model - width, model + width, color=colour, alpha=0.25, lw=0)
        axis.plot(days, model, color=colour, label=f"network, {lake.depths[column + 1]:g} m")
        axis.plot(days, measured[:, column + 1], "k", lw=0.8)
    axis.set(ylabel="°C (black: measured; 90 % bands)")
    axis.legend(fontsize=8)
