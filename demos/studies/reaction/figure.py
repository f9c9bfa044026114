"""The study's figure."""

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
from firedrake import Function
from matplotlib.tri import Triangulation

from .model import stations, truth

LINES = 0.25, 0.75, 1.5  # of b, along which rates are drawn
STYLES = {"a b N(a, b)": "C0", "N(a, b)": "C1--", "K a b": "C3:"}
ABOVE = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2, "frameon": False}


def pieces(field: Function) -> list[tuple]:
    """Coordinates, triangles and values of a linear field of each rank's cells, on every rank."""
    space = field.function_space()
    mesh = space.mesh()
    nodes = space.cell_node_map().values_with_halo[: mesh.cell_set.size]
    place = Function(mesh.coordinates.function_space()).assign(mesh.coordinates)
    own = place.dat.data_ro_with_halos, nodes, field.dat.data_ro_with_halos
    return mesh.comm.allgather(tuple(part.copy() for part in own))


def draw(
    speed: list[tuple],
    amount: list[tuple],
    laws: dict[str, Callable],
    runs: dict[str, dict],
    states: np.ndarray,
    outflows: dict[str, list[float]],
    times: np.ndarray,
) -> plt.Figure:
    """Flow and c on the left, the rates in the middle, their errors and C's outflow."""
    figure, axes = plt.subplots(2, 3, figsize=(17, 8.5), layout="constrained")
    _draw_field(axes[0, 0], "speed", speed, "speed of the flow, mesh and sensors", True)
    _draw_field(axes[1, 0], "c", amount, "c at the end of the run with other sources, truth", False)
    _draw_lines(axes[0, 1], laws, runs, states)
    _draw_outflow(axes[1, 1], outflows, runs, times)
    some = np.random.default_rng(0).permutation(len(states))[:8000]
    for axis, name in zip(axes[:, 2], ("a b N(a, b)", "N(a, b)"), strict=True):
        _draw_error(axis, name, laws[name], states, some)
    return figure


def _draw_field(axis, what: str, parts: list[tuple], title: str, with_mesh: bool) -> None:
    top = max(values.max() for _, _, values in parts)
    for place, cells, values in parts:
        mesh = Triangulation(*place.T, cells)
        drawn = axis.tripcolor(mesh, values, shading="gouraud", vmin=0, vmax=top)
        if with_mesh:
            axis.triplot(mesh, color="w", linewidth=0.2)
    if with_mesh:
        axis.plot(*stations().T, "r.", markersize=4)
    axis.figure.colorbar(drawn, ax=axis, shrink=0.5, label=what)
    axis.set(title=title, xlabel="x (heights)", ylabel="y (heights)", aspect="equal")
    axis.grid(False)


def _draw_lines(axis, laws: dict, runs: dict, states: np.ndarray) -> None:
    for k, b in enumerate(LINES):
        reached = states[abs(states[:, 1] - b) < 0.05, 0].max()
        line = np.stack((np.linspace(0, reached, 200), np.full(200, b)), 1)
        axis.plot(line[:, 0], truth(*line.T), "k", linewidth=4, alpha=0.3, label="truth"[5 * k :])
        for name, law in laws.items():
            label = f"{name}: {100 * runs[name]['rate_error']:.2g} % off"
            axis.plot(line[:, 0], law(line), STYLES[name], label="" if k else label)
        axis.annotate(f"b = {b}", (reached, truth(reached, b)), fontsize=8)
    axis.set(ylabel="R(a, b)", ylim=(0, 1.4 * truth(states[:, 0], states[:, 1]).max()))
    axis.set_xlabel("a (the rate as far as the run reaches)")
    axis.legend(**ABOVE)


def _draw_outflow(axis, outflows: dict, runs: dict, times: np.ndarray) -> None:
    axis.plot(times, outflows["truth"], "k", linewidth=4, alpha=0.3, label="truth")
    for name, style in STYLES.items():
        label = f"{name}: c {100 * runs[name]['prediction_error']:.2g} % off"
        axis.plot(times, outflows[name], style, label=label)
    axis.set(xlabel="time (a run with other sources, not fitted)", ylabel="outflow of C")
    axis.legend(**ABOVE)


def _draw_error(axis, name: str, law: Callable, states: np.ndarray, some: np.ndarray) -> None:
    points, largest = states[some], truth(*states.T).max()
    error = 100 * abs(law(points) - truth(*points.T)) / largest
    drawn = axis.scatter(*points.T, c=error, s=4, vmin=0, vmax=10, cmap="magma_r")
    axis.figure.colorbar(drawn, ax=axis, label="error of R (% of its largest value)")
    axis.set(title=f"{name}, at nodes and steps of the run", xlabel="a", ylabel="b")
