"""River trees as meshes: reaches that meet, cut at gauges whose flow is given."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from firedrake import COMM_WORLD, Mesh, MeshGeometry
from firedrake.mesh import plex_from_cell_list
from scipy.spatial import cKDTree

GATHERING = 100.0  # m, the length of a cell that gathers what leaves
APART = 1e6  # m between copies of a tree in the plane
ASIDE = np.array([-3e4, 1e4])  # m, the place of what is cut off, so that no places coincide


@dataclass(frozen=True)
class Reach:
    """A river between two points.

    Parameters
    ----------
    upper, lower
        The points' names.
    km
        Length along the river.
    area
        What it drains, in km2.
    heading
        Where it comes from on the drawing, in degrees from east.
    slope
        Of its bed.
    between
        The number of the area between gauges whose water it takes up on its way.
    """

    upper: str
    lower: str
    km: float
    area: float
    heading: float = 90.0
    slope: float = 3e-4
    between: int = 0


class Tree:
    """Nodes and cells of reaches; at each end a last cell gathers what has passed.

    Parameters
    ----------
    reaches
        From which the tree is made.
    spacing
        Of the nodes, in m, at most.
    cut
        Points that end one part and begin another, whose inflow is given there.

    Attributes
    ----------
    inlets, outlets : dict
        The node of each point where water is given, and where it leaves.
    node : dict
        The node of each point, the end of the part above where it is cut.
    gathers : dict
        The node behind each outlet, in which all water stays that has passed.
    places : numpy.ndarray
        Of the nodes in the plane, in m.
    downstream : numpy.ndarray
        For each node how far down the river it is, in m.
    length : numpy.ndarray
        Of river that belongs to each node, in m.
    area, slope : numpy.ndarray
        Of the reach that begins at each node, in km2 and without a unit.
    share : numpy.ndarray
        Which part of each area between gauges drains to a node, shape ``(nodes, areas)``.
    """

    def __init__(self, reaches: Sequence[Reach], spacing: float, cut: Collection[str] = ()):
        self.reaches, self.cut = list(reaches), frozenset(cut)
        self._check()
        self._places: list[np.ndarray] = []
        self._down: list[float] = []
        self._cells: list[tuple[int, int]] = []
        self._of_node: list[tuple[float, float]] = []
        self._shares: list[tuple[int, int, float]] = []
        self.node: dict[str, int] = {}
        self.inlets: dict[str, int] = {}
        self.outlets: dict[str, int] = {}
        self.gathers: dict[str, int] = {}
        uppers = {reach.upper for reach in self.reaches}
        for reach in self.reaches:
            if reach.lower not in uppers:
                self._end(reach.lower, np.zeros(2), 0.0, reach)
        pending = list(self.reaches)
        while pending:
            reach = next(r for r in pending if r.lower in self.node)
            pending.remove(reach)
            self._chain(reach, max(1, round(1000 * reach.km / spacing)))
        self._finish()

    def _check(self) -> None:
        uppers = [reach.upper for reach in self.reaches]
        lowers = {reach.lower for reach in self.reaches}
        double = {name for name in uppers if uppers.count(name) > 1}
        if double:
            raise ValueError(f"Tree: {', '.join(sorted(double))} would flow in two directions.")
        lost = self.cut - (lowers & set(uppers))
        if lost:
            raise ValueError(f"Tree: cannot cut at {', '.join(sorted(lost))}: no point between.")
        below = {reach.upper: reach.lower for reach in self.reaches}
        for name in uppers:
            passed = {name}
            while (name := below.get(name, "")) and name not in passed:
                passed.add(name)
            if name:
                raise ValueError(f"Tree: the reaches at {name} flow in a circle.")

    def _add(self, place: np.ndarray, down: float, reach: Reach) -> int:
        self._places.append(place)
        self._down.append(down)
        self._of_node.append((reach.area, reach.slope))
        return len(self._places) - 1

    def _end(self, name: str, place: np.ndarray, down: float, reach: Reach) -> None:
        """A point where water leaves, and the cell that gathers it."""
        self.node[name] = self.outlets[name] = self._add(place, down, reach)
        behind = self._add(place - np.array([0.0, GATHERING]), down + GATHERING, reach)
        self.gathers[name] = behind
        self._cells.append((self.outlets[name], behind))

    def _chain(self, reach: Reach, n: int) -> None:
        """The nodes of a reach from its lower point up."""
        last, step = self.node[reach.lower], 1000 * reach.km / n
        angle = np.radians(reach.heading)
        up = step * np.array([np.cos(angle), np.sin(angle)])
        for _ in range(n):
            first = self._add(self._places[last] + up, self._down[last] - step, reach)
            self._cells.append((first, last))
            self._shares += [(node, reach.between, step / 2) for node in (first, last)]
            last = first
        self._begin(reach, last)

    def _begin(self, reach: Reach, first: int) -> None:
        """What the upper point of a reach is: a source, a cut or where others arrive."""
        name = reach.upper
        ends = [r for r in self.reaches if r.lower == name]
        if not ends or name in self.cut:
            self.inlets[name] = first
        if ends and name in self.cut:
            self._end(name, self._places[first] + ASIDE, self._down[first], ends[0])
        else:
            self.node[name] = first

    def _finish(self) -> None:
        self.places, self.downstream = np.array(self._places), np.array(self._down)
        self.cells = np.array(self._cells)
        self.area, self.slope = np.array(self._of_node).T
        self.length = np.zeros(len(self.places))
        steps = np.linalg.norm(np.diff(self.places[self.cells], axis=1)[:, 0], axis=1)
        np.add.at(self.length, self.cells, steps[:, None] / 2)
        self.share = np.zeros((len(self.places), 1 + max(r.between for r in self.reaches)))
        for node, between, length in self._shares:
            self.share[node, between] += length
        self.share /= self.share.sum(axis=0)

    def __len__(self) -> int:
        return len(self.places)

    def passed(self, inflow: dict[str, np.ndarray]) -> np.ndarray:
        """The flow at each node where nothing changes, from that at the inlets.

        Parameters
        ----------
        inflow
            For each inlet of one shape ``(n,)``; the result's shape is ``(n, nodes)``.
        """
        n = len(self)
        leads = np.zeros((n, n))
        leads[self.cells[:, 1], self.cells[:, 0]] = 1.0
        given = np.zeros((len(next(iter(inflow.values()))), n))
        for name, node in self.inlets.items():
            given[:, node] = inflow[name]
        return np.linalg.solve(np.eye(n) - leads, given.T).T

    def copies(self, n: int) -> MeshGeometry:
        """A mesh of n such trees that do not touch each other."""
        cells = np.concatenate([self.cells + i * len(self) for i in range(n)])
        return Mesh(plex_from_cell_list(1, cells, self.places_of_copies(n), COMM_WORLD))

    def places_of_copies(self, n: int) -> np.ndarray:
        """The nodes of all copies, those of the first one first."""
        return np.concatenate([self.places + np.array([i * APART, 0.0]) for i in range(n)])

    def find(self, places: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Of which copy and which node of the tree a node of the mesh is."""
        distance, which = cKDTree(self.places_of_copies(n)).query(places)
        if distance.max() > 1e-3:
            raise RuntimeError("Tree: the mesh has nodes that are not the tree's.")
        return which // len(self), which % len(self)
