"""The figure of the study: profiles, readings over time, the law's loops, and what was missed."""

import matplotlib.pyplot as plt
import numpy as np

from demos.studies.common import Z90

from .data import Experiment
from .judging import history, law_of

COLOURS = "tab:blue", "tab:green", "tab:orange", "tab:red"
TIMES = 620.0, 1430.0, 4250.0, 36320.0  # min
PLACES = 9.5, 21.5, 28.5, 35.5  # cm
LOOPS = 5.0, 18.5, 25.5, 31.5
STYLES = {
    "no memory": {"color": "tab:orange", "ls": "--"},
    "by hand": {"color": "tab:green", "ls": "-."},
    "HYDRUS-1D": {"color": "0.5", "ls": ":"},
    "networks": {"color": "tab:blue", "ls": "-"},
}


def draw(experiment: Experiment, rows: dict[str, dict], fitted: np.ndarray) -> plt.Figure:
    """Profiles and series above, the loops and the errors by place below."""
    figure, axes = plt.subplots(2, 2, figsize=(11.5, 9), layout="constrained")
    runs = {name: history(rows[name]) for name in ("networks", "no memory")}
    _draw_profiles(axes[0, 0], experiment, runs, fitted)
    _draw_series(axes[0, 1], experiment, rows["networks"], runs["networks"], fitted)
    _draw_loops(axes[1, 0], rows["networks"], runs["networks"])
    _draw_errors(axes[1, 1], rows)
    return figure


def _draw_profiles(axis, experiment: Experiment, runs: dict, fitted: np.ndarray) -> None:
    for time, colour in zip(TIMES, COLOURS, strict=True):
        for name, run in runs.items():
            content = [np.interp(time, run["time"], column) for column in run["content"].T]
            label = f"{time:g} min" if name == "networks" else None
            axis.plot(run["x"], content, ls=STYLES[name]["ls"], color=colour, label=label)
        for which, face in ((fitted | ~experiment.after, colour), (~fitted, "none")):
            here = which & (experiment.time == time)
            axis.plot(
                experiment.x[here], experiment.content[here], "o", ms=5, color=colour, mfc=face
            )
    axis.set(xlabel="distance from the inlet, cm", ylabel="water content", xlim=(0, 42))
    axis.legend(fontsize=8)
    axis.set_title("Networks with memory; dashed: without (hollow: not fitted)", fontsize=10)


def _draw_series(axis, experiment: Experiment, row: dict, run: dict, fitted: np.ndarray) -> None:
    std = np.full(len(experiment.time), np.nan)
    std[experiment.after & ~fitted] = row["bands"]["std"]
    for place, colour in zip(PLACES, COLOURS, strict=True):
        series = [np.interp(place, run["x"], profile) for profile in run["content"]]
        axis.plot(run["time"], series, color=colour, label=f"{place:g} cm")
        here = experiment.x == place
        axis.plot(experiment.time[here], experiment.content[here], "o", ms=3, color=colour)
        held = here & np.isfinite(std)
        model = np.interp(experiment.time[held], run["time"], series)
        width = Z90 * std[held]
        ends = model - width, model + width
        axis.fill_between(experiment.time[held], *ends, color=colour, alpha=0.2, lw=0)
    axis.axvline(experiment.shut, color="0.5", lw=0.8)
    axis.set(xscale="log", xlim=(50, 4e4), xlabel="minutes (line: the inlet is shut)")
    axis.set(ylabel="water content")
    axis.legend(fontsize=8)
    axis.set_title("Places that were not fitted, with 90 % band", fontsize=10)


def _draw_loops(axis, row: dict, run: dict) -> None:
    theta = np.linspace(0.05, 0.425, 80)
    unit = law_of(row, 0.2, 0.0).item()
    for s, style in ((0.0, "-"), (1.0, "--")):
        label = ("after wetting", "after drying")[int(s)]
        axis.plot(theta, law_of(row, theta, s) / unit, "k", ls=style, lw=1, label=label)
    for place, colour in zip(LOOPS, COLOURS, strict=True):
        node = int(np.argmin(np.abs(run["x"] - place)))
        content, state = run["content"][:, node], run["state"][:, node]
        seen = content > theta[0]
        path = law_of(row, content[seen], state[seen]) / unit
        axis.plot(
            content[seen], path, color=colour, lw=2.5, alpha=0.7, label=f"path at {place:g} cm"
        )
        axis.plot(content[-1], path[-1], "o", color=colour)
    axis.set(yscale="log", xlabel="water content (dots: the end)")
    axis.set(ylabel="suction / suction at 0.2 after wetting")
    axis.legend(fontsize=8)
    axis.set_title("The law, and the ways that the soil took", fontsize=10)


def _draw_errors(axis, rows: dict[str, dict]) -> None:
    for name, style in STYLES.items():
        by_place = rows[name]["by_place"]
        label = f"{name}: {rows[name]['held_out']:.4f} held out"
        axis.plot([*map(float, by_place)], [*by_place.values()], marker=".", label=label, **style)
    axis.set(xlabel="distance from the inlet, cm", ylabel="RMSE after the inlet is shut")
    axis.set_ylim(0, None)
    axis.legend(fontsize=8)
    axis.set_title("Errors by place (HYDRUS-1D: fitted to all)", fontsize=10)
