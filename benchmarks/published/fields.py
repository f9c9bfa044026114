"""Figures of coefficients on the unit square."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle

import femnn
from benchmarks.published.poisson import grid, network

POINTS = 120


def trained(weights: list[float]):
    """The network of steady problems with these weights."""
    net = network(0)
    values = torch.tensor(weights, dtype=torch.float64)
    torch.nn.utils.vector_to_parameters(values, net.parameters())
    return net


def on_grid(function) -> np.ndarray:
    """Values of a network or of a function of x and y on a square grid, for ``imshow``."""
    points = grid(POINTS)
    at = (
        femnn.evaluate(function, *points.T)
        if isinstance(function, torch.nn.Module)
        else function(*points.T)
    )
    return np.broadcast_to(at, len(points)).reshape(POINTS, POINTS).T


def draw(axes, truth, found: dict[str, list[float]], box: tuple | None = None) -> None:
    """The truth, recovered coefficients, and their errors below, on axes of two rows.

    Parameters
    ----------
    axes
        Array of axes, shape ``(2, 1 + len(found))``; the lower left one is left alone.
    truth
        The true coefficient, a function of x and y.
    found
        Weights of the recovered ones by title.
    box
        Corner, width and height of a rectangle to mark.
    """
    exact = on_grid(truth)
    fields = {title: on_grid(trained(weights)) for title, weights in found.items()}
    shown = {"true k": exact, **fields}
    for axis, (title, values) in zip(axes[0], shown.items(), strict=True):
        image = _show(axis, values, title, vmin=exact.min(), vmax=exact.max())
    axes[0, 0].figure.colorbar(image, ax=list(axes[0]), extend="both", label="k")
    errors = {f"error, {title}": np.abs(values - exact) for title, values in fields.items()}
    highest = max(np.quantile(e, 0.98) for e in errors.values())
    for axis, (title, values) in zip(axes[1, 1:], errors.items(), strict=True):
        image = _show(axis, values, title, vmin=0, vmax=highest, cmap="magma_r")
    axes[0, 0].figure.colorbar(image, ax=list(axes[1, 1:]), extend="max", label="|k - true k|")
    if box is not None:
        for axis in [*axes[0], *axes[1, 1:]]:
            axis.add_patch(Rectangle(*box, fill=False, color="white", linestyle="--"))


def losses(axis, rows: dict[str, dict]) -> None:
    """The loss over the iterations."""
    for name, row in rows.items():
        axis.loglog(range(1, len(row["history"])), row["history"][1:], label=name)
    axis.set(xlabel="L-BFGS iteration", ylabel="loss", title="training")
    axis.legend(fontsize=8)


def losses_in_time(axis, rows: dict[str, dict], styles: dict[str, str]) -> None:
    """The loss over processor time, of which each iteration is given the same."""
    for name, row in rows.items():
        seconds = np.linspace(0, row["seconds"], len(row["history"]))
        axis.semilogy(seconds, row["history"], styles[name])
    axis.set(xlabel="processor time, s", ylabel="loss", title="training")


def _show(axis, values, title, **options):
    axis.set(title=title, xlabel="x", ylabel="y")
    axis.grid(False)
    return axis.imshow(values, origin="lower", extent=(0, 1, 0, 1), **options)


def square(columns: int):
    """A figure with two rows of axes."""
    return plt.subplots(2, columns, figsize=(3.6 * columns, 6.4), layout="constrained")
