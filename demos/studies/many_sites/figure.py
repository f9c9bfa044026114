"""The figure of the study: what attributes say, errors, a band, and the surrogate."""

import matplotlib.pyplot as plt
import numpy as np
import torch

from demos.studies.common import Z90

from .data import Record
from .judging import without_rest
from .laws import KNOTS, USUAL
from .model import Columns

LEVELS = 2  # of the depths between: 50 cm


def draw(record: Record, rows: dict[str, dict], bands: dict, through: dict) -> plt.Figure:
    """Laws above, a prediction and the surrogate below."""
    figure = plt.figure(figsize=(12, 8.5), layout="constrained")
    grid = figure.add_gridspec(2, 5)
    _draw_found(figure.add_subplot(grid[0, :2]), record, rows)
    _draw_errors(figure.add_subplot(grid[0, 2:]), rows)
    _draw_series(figure.add_subplot(grid[1, :3]), record, rows, bands)
    _draw_surrogate(figure.add_subplot(grid[1, 3:]), through)
    return figure


def _draw_found(axis, record: Record, rows: dict[str, dict]) -> None:
    """The diffusivity of each station against what its attributes say."""
    law = without_rest(rows["attributes"]["law"])
    everyone = torch.arange(len(record))
    with torch.no_grad():
        said = USUAL * np.exp(law.theta(everyone).numpy())
        own = USUAL * np.exp(rows["a profile for each station"]["law"].theta(everyone).numpy())
    for knot, colour in ((0, "tab:orange"), (1, "tab:blue")):
        for which, fill in ((record.fitted, colour), (record.held_out, "none")):
            label = f"{100 * KNOTS[knot]:g} cm, {'held out' if fill == 'none' else 'fitted'}"
            points = said[which, knot], own[which, knot]
            axis.plot(*points, "o", ms=5, color=colour, mfc=fill, label=label)
    ends = [1e-7, 4e-6]
    axis.plot(ends, ends, "k-", lw=0.8)
    axis.set(xscale="log", yscale="log", xlim=(8e-8, 4e-6), ylim=(5e-8, 2e-5))
    axis.set(xlabel="D by attributes, m²/s", ylabel="D fitted to the station itself, m²/s")
    axis.legend(fontsize=8)


def _draw_errors(axis, rows: dict[str, dict]) -> None:
    """Held-out stations' errors, by model."""
    names = list(rows)[::-1]
    for i, name in enumerate(names):
        row = rows[name]
        colour = "tab:red" if name == "attributes" else "0.6"
        axis.barh(i, row["held_out"], color=colour, height=0.6)
        axis.text(row["held_out"] + 0.01, i, f"{row['held_out']:.3f}", va="center", fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.margins(x=0.12)
    axis.set(xlabel="RMSE at the held-out stations, K")


def _draw_series(axis, record: Record, rows: dict[str, dict], bands: dict) -> None:
    """The held-out station whose error is the median, at 50 cm."""
    errors = np.array(rows["attributes"]["by_station"])[record.held_out]
    i = int(np.argsort(errors)[len(errors) // 2])
    station = record.held_out[i]
    model, samples = bands["model"][:, i, LEVELS], bands["samples"][:, :, i, LEVELS]
    width = Z90 * np.hypot(samples.std(axis=0), rows["attributes"]["noise"])
    axis.fill_between(record.days, model - width, model + width, alpha=0.25, lw=0)
    axis.plot(record.days, model, label="attributes")
    one = Columns(record, rows["one diffusivity"]["law"], [station])
    axis.plot(record.days, one.simulate()[:, LEVELS], "--", label="one diffusivity")
    axis.plot(record.days, record.measured[:, station, 1 + LEVELS], "k", lw=0.8, label="measured")
    axis.set(
        ylabel="°C at 50 cm, with a 90 % band", title=f"Held-out station {record.names[station]}"
    )
    axis.legend(fontsize=8)


def _draw_surrogate(axis, through: dict) -> None:
    """The errors of surrogates in and beyond the box, by the number of samples."""
    styles = {"values and gradients": "o-", "values": "s--"}
    for name, style in styles.items():
        table = through["surrogates"][name]
        for where, colour in (("inside", "tab:blue"), ("beyond", "tab:orange")):
            numbers = [row["samples"] for row in table], [row[where] for row in table]
            axis.plot(*numbers, style, color=colour, label=f"{name}, {where}")
    axis.set(xscale="log", yscale="log", ylabel="surrogate's error in log RMSE")
    axis.set_xticks(numbers[0], [f"{n:d}" for n in numbers[0]], minor=False)
    axis.set_xticks([], minor=True)
    axis.set(xlabel="samples, of all stations at once", ylim=(None, 1.0))
    axis.legend(fontsize=8)
