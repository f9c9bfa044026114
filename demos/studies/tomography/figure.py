"""The figure of the study: conductivity at two heights, the river's law, held-out heads."""

from __future__ import annotations

import firedrake as fd
import matplotlib.pyplot as plt
import numpy as np
import torch

import femnn
from demos.studies.common import Z90

from .aquifer import LENGTH, LOWER, NOISE, UPPER, true_leakage
from .inversion import Inversion
from .judging import Conductivity, Heads

POINTS = 60  # along each side of a map


def maps(conductivity: Conductivity) -> dict[str, np.ndarray]:
    """log K and its truth at two heights, for the figure.  Collective."""
    line = (np.arange(POINTS) + 0.5) / POINTS * LENGTH
    kinds = {"true": conductivity.truth, "found": conductivity.present()}
    mean, found = fd.Function(conductivity.space), {}
    for name, height in (("lower aquifer", LOWER), ("upper aquifer", UPPER)):
        at = femnn.Stations(conductivity.space.mesh(), [(x, y, height) for y in line for x in line])
        for kind, values in kinds.items():
            mean.dat.data_wo[:] = values
            found[f"{name}, {kind}"] = np.asarray(at(mean)).reshape(POINTS, POINTS)
    return found


def draw(
    inversion: Inversion,
    posterior: femnn.LaplacePosterior,
    shown: dict[str, np.ndarray],
    seen: tuple[float, float],
    heads: Heads,
) -> plt.Figure:
    """Maps on the left, the river's law and held-out heads on the right."""
    figure, axes = plt.subplots(2, 3, figsize=(13, 7.5), layout="constrained")
    for axis, (name, values) in zip(axes[:, :2].ravel(), shown.items(), strict=True):
        picture = axis.imshow(
            values, origin="lower", extent=(0, 1, 0, 1), vmin=-1, vmax=3.5, cmap="viridis"
        )
        wells = inversion.campaign.ports / LENGTH
        axis.plot(wells[:, 0], wells[:, 1], "k.", ms=4)
        tests = np.array([(t.x, t.y) for t in inversion.campaign.tests if t.rate]) / LENGTH
        axis.plot(tests[:, 0], tests[:, 1], "r^", ms=5)
        axis.set(title=name, xlabel="x, km", ylabel="y, km")
        axis.grid(False)
    figure.colorbar(picture, ax=axes[:, :2], label="log K, K in m/d", shrink=0.6)
    _draw_law(axes[0, 2], inversion.aquifer.networks["leakage"], posterior, seen)
    _draw_heads(axes[1, 2], heads)
    return figure


def _draw_law(
    axis: plt.Axes,
    law: torch.nn.Module,
    posterior: femnn.LaplacePosterior,
    seen: tuple[float, float],
) -> None:
    femnn.plot_law(
        law,
        visited=seen,
        truth=true_leakage,
        band=lambda d: posterior.law(law, d).interval(0.9),
        ax=axis,
    )
    axis.set(xlabel="stage minus head, m", ylabel="leakage, m/d")


def _draw_heads(axis: plt.Axes, heads: Heads) -> None:
    ends = [heads.read.min(), heads.read.max()]
    axis.plot(ends, ends, "0.6", lw=1)
    axis.errorbar(heads.read, heads.mean, yerr=Z90 * heads.std, fmt=".", ms=4, lw=0.8)
    axis.set(
        xlabel=f"head that was read, m (error {NOISE} m)",
        ylabel="predicted, with 90 % band, m",
        title="tests that were held out",
    )
