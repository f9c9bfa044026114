"""The figure of the study: laws, errors by depth, and a held-out winter with its bands."""

import matplotlib.pyplot as plt
import numpy as np
import torch

from demos.studies import common
from demos.studies.common import Z90

from .data import Record, Winters
from .laws import Laws

DEPTHS = (0.10, 0.50, 1.25)  # m
COLOURS = ("tab:red", "tab:green", "tab:blue")
STYLES = {"networks": "-", "hand-made law": "--"}
TO_MM2_PER_S = 1e6 / 86400


def slopes(laws: Laws, temperatures: np.ndarray, depth: float) -> tuple[np.ndarray, np.ndarray]:
    """dH/dT over that at 10 deg C, and k over the heat capacity there in mm2/s."""
    T = torch.tensor(np.r_[10.0, temperatures])[:, None].requires_grad_(True)
    z = torch.full_like(T, depth).detach()
    heat = laws.sensible(T, z) + laws.latent(T, z)
    (capacity,) = torch.autograd.grad(heat.sum(), T)
    unfrozen = capacity[0]
    k = laws.conductivity(T, z).detach() / unfrozen
    return (capacity / unfrozen)[1:, 0].numpy(), TO_MM2_PER_S * k[1:, 0].numpy()


def draw(winters: Winters, rows: dict[str, dict]) -> plt.Figure:
    """Laws and errors above, the first held-out winter below."""
    figure = plt.figure(figsize=(12, 12), layout="constrained")
    grid = figure.add_gridspec(4, 3, height_ratios=[1.6, 1, 1, 1])
    _draw_laws([figure.add_subplot(grid[0, i]) for i in range(2)], winters, rows)
    _draw_depths(figure.add_subplot(grid[0, 2]), winters.record, rows)
    below = None
    for i, depth in enumerate(DEPTHS):
        below = figure.add_subplot(grid[i + 1, :], sharex=below)
        _draw_series(below, winters, rows, depth)
        below.tick_params(labelbottom=i == len(DEPTHS) - 1)
    return figure


def _draw_laws(axes: list, winters: Winters, rows: dict[str, dict]) -> None:
    temperatures = np.linspace(-12, 12, 481)
    fitted = winters.record.measured[: winters.held_out[0].start]
    for depth, colour in zip(DEPTHS, COLOURS, strict=True):
        seen = fitted[:, _nearest(winters.record, depth)]
        visited = (temperatures >= np.nanmin(seen)) & (temperatures <= np.nanmax(seen))
        for name, style in STYLES.items():
            curves = slopes(rows[name]["laws"], temperatures, depth)
            for axis, curve in zip(axes, curves, strict=True):
                axis.plot(temperatures, np.where(visited, curve, np.nan), style, color=colour)
    axes[0].set(yscale="log", ylabel="dH/dT over that at 10 °C, w = 1")
    axes[1].set(ylabel="conductivity over the heat capacity at 10 °C, mm²/s", ylim=(0, None))
    depths = zip(DEPTHS, COLOURS, strict=True)
    meanings = {f"{100 * depth:.0f} cm": {"color": colour} for depth, colour in depths}
    meanings |= {name: {"linestyle": style} for name, style in STYLES.items()}
    for axis in axes:
        axis.set_xlabel("temperature, °C, where it was while fitting")
        common.legend(axis, meanings, ncols=3)


def _draw_depths(axis, record: Record, rows: dict[str, dict]) -> None:
    for name, row in rows.items():
        label = f"{name}: {row['held_out']:.2f} °C"
        axis.plot(row["by_depth"], 100 * record.depths[1:-1], marker=".", label=label)
    axis.invert_yaxis()
    axis.set(xlabel="RMSE in the held-out winters, °C", ylabel="depth, cm", xlim=(0, None))
    axis.legend(fontsize=7)


def _draw_series(axis, winters: Winters, rows: dict[str, dict], depth: float) -> None:
    column = _nearest(winters.record, depth) - 1
    year = winters.held_out[0]
    days = winters.record.days(np.arange(year.first, year.last + 1))
    axis.plot(days, rows["networks"]["measured"][:, 0, column], "k", lw=1.4, label="measured")
    for (name, style), colour in zip(STYLES.items(), ("tab:red", "tab:blue"), strict=True):
        row = rows[name]
        model, std = row["model"][:, 0, column], row["std"][:, 0, column]
        width = Z90 * np.hypot(std, row["noise"][column])
        axis.fill_between(days, model - width, model + width, color=colour, alpha=0.2, lw=0)
        axis.plot(days, model, style, color=colour, lw=1.2, label=name)
    axis.set_ylabel("°C")
    title = f"{100 * depth:.0f} cm, first held-out winter, 90 % bands"
    axis.set_title(title, loc="left", fontsize=10)
    axis.legend(loc="upper right", ncols=3, fontsize=8, frameon=False)


def _nearest(record: Record, depth: float) -> int:
    return int(np.argmin(np.abs(record.depths - depth)))
