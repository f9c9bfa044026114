"""The figure of the study: both laws, and heads at the depths that were not fitted."""

import matplotlib.pyplot as plt
import numpy as np

from demos.studies.common import Z90

from .data import Evaporation
from .evaporation import HELD_OUT
from .judging import tabled
from .laws import LogConductivity, WaterContent

STYLES = {
    "van Genuchten-Mualem": {"color": "tab:orange", "ls": "--"},
    "PINN": {"color": "tab:green", "ls": "-."},
    "networks": {"color": "tab:blue", "ls": "-"},
}
ALSO = {"published, all depths fitted": {"color": "0.5", "ls": ":"}} | STYLES


def draw(experiment: Evaporation, rows: dict[str, dict]) -> plt.Figure:
    """The laws above, the heads and what they miss below."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 8.5), layout="constrained")
    _draw_law(axes[0, 0], rows, 0)
    _draw_law(axes[0, 1], rows, 1)
    _draw_heads(axes[1, 0], experiment, rows["networks"])
    _draw_errors(axes[1, 1], experiment, rows)
    return figure


def _draw_law(axis: plt.Axes, rows: dict[str, dict], which: int) -> None:
    """Water content, or the logarithm of the conductivity, with the visited range shaded."""
    pF = np.linspace(0.8, 3.4, 120)
    row = rows["networks"]
    law = (WaterContent, LogConductivity)[which](row["laws"])
    found = row["posterior"].law(law, -(10**pF))
    lower, upper = found.interval(0.9)
    change = (lambda x: x) if which == 0 else (lambda x: 10**x)
    seen = np.log10(-np.array(row["visited"]))
    axis.axvspan(*seen, color="0.93", lw=0, label="visited")
    axis.fill_between(pF, change(lower), change(upper), color="tab:blue", alpha=0.25, lw=0)
    for name, style in STYLES.items():
        axis.plot(pF, change(tabled(rows[name]["laws"], pF)[which]), label=name, **style)
    axis.set(xlabel="pF = log10(-h / cm)", ylabel=("water content", "K, cm/d")[which])
    if which:
        axis.set(yscale="log", ylim=(1e-4, 1e3))
    else:
        axis.set(ylim=(0, 0.45))
    axis.legend(fontsize=8)
    axis.set_title(("θ(h)", "K(h)")[which] + ", with 90 % band", fontsize=10)


def _draw_heads(axis: plt.Axes, experiment: Evaporation, row: dict) -> None:
    width = Z90 * np.hypot(row["bands"]["std"], row["noise"])
    for i, (depth, colour) in enumerate(zip(HELD_OUT, ("tab:red", "tab:blue"), strict=True)):
        place = experiment.columns((depth,))[0]
        model = np.log10(-row["heads"][:, place])
        ends = (-(10 ** (model + sign * width[:, i])) for sign in (-1, 1))
        axis.fill_between(experiment.times, *ends, color=colour, alpha=0.25, lw=0)
        label = f"{depth:g} cm, not fitted"
        axis.plot(experiment.times, row["heads"][:, place], color=colour, label=label)
        axis.plot(experiment.times, experiment.heads[:, place], "k.", ms=4)
    axis.set(xlabel="days", ylabel="head, cm")
    axis.legend(fontsize=8)
    axis.set_title("Heads by the networks (dots: measured)", fontsize=10)


def _draw_errors(axis: plt.Axes, experiment: Evaporation, rows: dict[str, dict]) -> None:
    columns = experiment.columns(HELD_OUT)
    for name, style in ALSO.items():
        errors = (rows[name]["heads"] - experiment.heads)[:, columns]
        rmse = rows[name]["held_out"]
        for i, which in enumerate(errors.T):
            label = f"{name}: {rmse:.1f} cm" if i == 0 else None
            axis.plot(experiment.times, which, label=label, lw=1.2, **style)
    axis.set(xlabel="days", ylabel="modelled minus measured, cm")
    axis.legend(fontsize=8)
    axis.set_title("Errors at 3 and 7 cm", fontsize=10)
