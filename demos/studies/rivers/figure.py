"""The figure of the study: celerities, errors, a flood with its band, and the n that is known."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch

import femnn
from demos.studies.common import Z90

from .data import ABOVE
from .judging import Cutting
from .laws import FlowLaw, ManningLaw
from .synthetic import TrueN, seen_tree
from .training import Trained

COLOURS = dict(zip(ABOVE, ("tab:blue", "tab:green", "tab:red"), strict=True))
AROUND = 25  # days around the largest flood


def draw(
    cutting: Cutting,
    trained: dict[str, Trained],
    series: dict[str, dict[str, np.ndarray]],
    errors: dict[str, tuple[float, float]],
    rows: dict[str, dict],
    known: dict[str, dict],
    held_out: Sequence[int],
) -> plt.Figure:
    """Laws above, with the errors; the largest flood of the held-out years below."""
    figure = plt.figure(figsize=(12, 9), layout="constrained")
    grid = figure.add_gridspec(2, 3)
    _draw_celerity(figure.add_subplot(grid[0, 0]), cutting, trained)
    _draw_errors(figure.add_subplot(grid[0, 1]), rows)
    _draw_n(figure.add_subplot(grid[0, 2]), known)
    _draw_flood(figure.add_subplot(grid[1, :]), cutting, series, errors, held_out)
    return figure


def celerity(law: FlowLaw, area: float, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Flows between two, in m3/s, and the celerity there in m/s, of a river of an area."""
    flow = np.geomspace(low, high, 100)
    section = law.section(flow, np.full(100, area), np.full(100, 3e-4))
    found = femnn.evaluate(law, section, area, 3e-4)
    return flow, found[:, 1]


def _draw_celerity(axis, cutting: Cutting, trained: dict[str, Trained]) -> None:
    """By the network, and by the last of the waves, the one with the freest law."""
    river = cutting.river
    law, wave = trained["network"].law, list(trained.values())[-1].law
    for name, colour in COLOURS.items():
        low, high = np.nanmin(river.flow[name]), np.nanmax(river.flow[name])
        flow, found = celerity(law, river.area[name], low, high)
        axis.plot(flow, found, color=colour, label=f"{river.area[name]:.0f} km² ({name})")
        axis.plot(*celerity(wave, river.area[name], low, high), "--", color=colour, lw=0.8)
    axis.set(xscale="log", ylim=(0, None), xlabel="flow, m³/s (dashed: wave free on knots)")
    axis.set_ylabel("celerity, m/s")
    axis.set_title("Celerity by the area drained", fontsize=10)
    axis.legend(fontsize=8)


def _draw_errors(axis, rows: dict[str, dict]) -> None:
    kept = [name for name in rows if name != "same day"]
    for k, (gauge, colour) in enumerate(COLOURS.items()):
        values = [rows[name]["held_out"][gauge] for name in kept]
        axis.barh(np.arange(len(kept)) + 0.25 * (k - 1), values, 0.24, color=colour, label=gauge)
    short = [name.replace("kinematic wave, ", "wave, ") for name in kept]
    axis.set_yticks(range(len(kept)), short, fontsize=7)
    axis.invert_yaxis()
    axis.set_xlabel("RMSE in the held-out years, m³/s")
    axis.legend(fontsize=7, ncols=3, loc="lower center", bbox_to_anchor=(0.3, 1.0))


def _draw_n(axis, known: dict[str, dict]) -> None:
    tree = seen_tree()
    sites = torch.tensor(np.unique(np.column_stack([tree.area, tree.slope]), axis=0))
    truth = ManningLaw(TrueN()).roughness(sites).numpy()
    axis.plot(*([[truth.min(), truth.max()]] * 2), "k", lw=0.8)
    for (kind, found), mark in zip(known.items(), ("x", "o"), strict=True):
        n = ManningLaw(found["net"]).roughness(sites).detach().numpy()
        axis.plot(truth, n, mark, label=f"{kind}: off by {found['n off by']:.1%}")
    axis.set(xlabel="true n of each reach, s/m^⅓", ylabel="found")
    axis.set_title("A tree whose n is known", fontsize=10)
    axis.legend(fontsize=8)


def _draw_flood(
    axis,
    cutting: Cutting,
    series: dict[str, dict[str, np.ndarray]],
    errors: dict[str, tuple[float, float]],
    held_out: Sequence[int],
) -> None:
    """The largest flood of the held-out years at the last gauge, at all three."""
    river = cutting.river
    late = (river.years >= held_out[0]) & (river.years <= held_out[1])
    peak = int(np.nanargmax(np.where(late, river.flow["Haw Bridge"], np.nan)))
    part = slice(max(peak - AROUND, 0), peak + AROUND)
    for name, colour in COLOURS.items():
        model = series["network in the river"][name][part]
        a, b = errors[name]
        width = Z90 * (a + b * np.maximum(model, 0))
        days = river.days[part]
        axis.fill_between(days, model - width, model + width, color=colour, alpha=0.2, lw=0)
        axis.plot(days, model, color=colour, label=name)
        axis.plot(days, river.flow[name][part], "k", lw=0.8)
    axis.set_ylabel("m³/s (black: measured; 90 % bands)")
    axis.legend(fontsize=8)
