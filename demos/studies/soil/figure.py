"""Figure and fields of the study."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from firedrake import Function

from demos.studies import common

from .data import Record
from .laws import Laws
from .model import Soil

LAW_DEPTHS = (0.10, 0.50, 1.25)  # m, with a curve each
SERIES_DEPTHS = (0.10, 0.50, 1.25)
COLOURS = ("tab:red", "tab:green", "tab:blue")


def slopes(laws: Laws, temperatures: np.ndarray, depth: float) -> tuple[np.ndarray, np.ndarray]:
    """dH/dT over that at 10 deg C, and k over the heat capacity there in mm2/s."""
    T = torch.tensor(np.r_[10.0, temperatures])[:, None].requires_grad_(True)
    z = torch.full_like(T, depth).detach()
    heat = laws.heat(T, z, torch.zeros_like(z))
    (capacity,) = torch.autograd.grad(heat.sum(), T)
    k = laws.conductivity(T, z).detach()
    unfrozen = capacity[0]
    to_mm2_per_s = 1e6 / 86400
    return (capacity / unfrozen)[1:, 0].numpy(), (to_mm2_per_s * k / unfrozen)[1:, 0].numpy()


def draw(record: Record, half: int, rows: dict[str, dict], step: int) -> plt.Figure:
    """The learned laws above, the second half of the record below."""
    figure = plt.figure(figsize=(11, 11), layout="constrained")
    grid = figure.add_gridspec(4, 2, height_ratios=[1.7, 1, 1, 1])
    axes = [figure.add_subplot(grid[0, i]) for i in range(2)]
    _draw_laws(axes, record, half, rows)
    below = None
    for i, depth in enumerate(SERIES_DEPTHS):
        below = figure.add_subplot(grid[i + 1, :], sharex=below)
        _draw_series(below, record, half, rows, step, depth)
        below.tick_params(labelbottom=i == len(SERIES_DEPTHS) - 1)
    return figure


def _draw_laws(axes: list, record: Record, half: int, rows: dict[str, dict]) -> None:
    temperatures = np.linspace(-12, 12, 481)
    networks, hand = rows["networks"]["laws"], rows["hand-made law, water"]["laws"]
    for depth, colour in zip(LAW_DEPTHS, COLOURS, strict=True):
        seen = record.measured[:half, _nearest(record, depth)]
        visited = (temperatures >= np.nanmin(seen)) & (temperatures <= np.nanmax(seen))
        for axis, curve, by_hand in zip(
            axes,
            slopes(networks, temperatures, depth),
            slopes(hand, temperatures, depth),
            strict=True,
        ):
            axis.plot(temperatures, curve, ":", color=colour, lw=1)
            axis.plot(temperatures, np.where(visited, curve, np.nan), color=colour)
            axis.plot(temperatures, by_hand, "--", color=colour, lw=0.8, alpha=0.7)
    axes[0].set(yscale="log", ylabel="dH/dT over that at 10 °C, second winter")
    axes[1].set(ylabel="conductivity over the heat capacity at 10 °C, mm²/s", ylim=(0, None))
    depths = zip(LAW_DEPTHS, COLOURS, strict=True)
    meanings = {f"{100 * depth:.0f} cm": {"color": colour} for depth, colour in depths}
    meanings |= {"networks": {}, "not visited while fitting": {"linestyle": ":"}}
    meanings |= {"hand-made law, water": {"linestyle": "--"}}
    for axis in axes:
        axis.set_xlabel("temperature, °C")
        common.legend(axis, meanings, ncols=3)


def _draw_series(axis, record: Record, half: int, rows: dict, step: int, depth: float) -> None:
    column = _nearest(record, depth)
    days = np.array([record.day(i) for i in range(half, len(record))])
    axis.plot(days, record.measured[half:, column], color="black", lw=1.6, label="measured")
    for name, style in (("networks", "tab:red"), ("constant properties", "tab:gray")):
        modelled = rows[name]["modelled"][:, column]
        at = days[np.minimum(np.arange(len(modelled)) * step, len(days) - 1)]
        rmse = rows[name]["judged_by_depth"][column - 1]
        axis.plot(at, modelled, color=style, lw=1, label=f"{name}: {rmse:.2f} °C")
    axis.set_ylabel("°C")
    axis.set_title(f"{100 * depth:.0f} cm, second half of the record", loc="left", fontsize=10)
    axis.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=3, fontsize=8, frameon=False)


def _nearest(record: Record, depth: float) -> int:
    return int(np.argmin(np.abs(record.depths - depth)))


def fields_of_coldest_day(soil: Soil, modelled: np.ndarray) -> list[Function]:
    """Measured and modelled temperature when the modelled column is coldest, in depth."""
    coldest = int(np.argmin(modelled[:, 1:-1].mean(axis=1)))
    measured = soil.profiles[coldest].copy(deepcopy=True)
    measured.rename("measured temperature")
    found = Function(soil.V, name="modelled temperature")
    found.dat.data[:] = np.interp(soil.depth, soil.depths, modelled[coldest])
    return [measured, found]
