"""Blocks that are evaluated on meshes as these were when the block was recorded."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from firedrake.adjoint_utils.blocks import MeshOutputBlock
from pyadjoint import Block
from pyadjoint.tape import get_working_tape, no_annotations

from femnn.fields.copies import CoordinateState
from femnn.fields.cotangents import with_cheap_sums
from femnn.parallel import any_rank

# Which nodes of meshes are coordinates that the tape has moved; found once for each.
_moves: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


class Coordinates:
    """A mesh's coordinates at some time, this rank's; shared by all that find the same."""

    def __init__(self, values: np.ndarray, checksum: int):
        self.values = values.copy()
        self.checksum = checksum


class Snapshots:
    """A mesh's coordinates, each state once as long as something uses it."""

    def __init__(self, mesh: Any):
        self._data = mesh.coordinates.dat
        self._checksum = CoordinateState(mesh)
        self._comm = mesh.comm
        self._kept: weakref.WeakValueDictionary[int, Coordinates] = weakref.WeakValueDictionary()

    def present(self) -> Coordinates:
        """The coordinates now."""
        checksum = self._checksum()
        known = self._kept.get(checksum)
        if known is None:
            known = Coordinates(self._data.data_ro, checksum)
            self._kept[checksum] = known
        return known

    def differ(self, known: Coordinates) -> bool:
        """Whether the mesh is elsewhere now.  Collective."""
        return any_rank(self._comm, self._checksum() != known.checksum)

    def move(self, to: Coordinates) -> None:
        """Move the mesh; all ranks together, for halos are exchanged at the next use."""
        self._data.data_wo[...] = to.values


# By the mesh's identity: meshes on different communicators can be equal.
_snapshots: dict[int, Snapshots] = {}


def snapshots_of(mesh: Any) -> Snapshots:
    """The states of a mesh."""
    key = id(mesh)
    if key not in _snapshots:
        _snapshots[key] = Snapshots(mesh)
        weakref.finalize(mesh, _snapshots.pop, key, None)
    return _snapshots[key]


def is_moved_by_the_tape(mesh: Any) -> bool:
    """Whether the mesh's present coordinates are what a recorded assignment has made."""
    return _is_made(mesh._block_variable())


def _is_made(node: Any) -> bool:
    if node is None:
        return False
    if node not in _moves:
        blocks = get_working_tape().get_blocks()
        moves = (b for b in reversed(blocks) if isinstance(b, MeshOutputBlock))
        _moves[node] = any(node in block.get_outputs() for block in moves)
    return _moves[node]


class OnMeshes(Block):
    """A block that is evaluated where its meshes were when it was recorded.

    The user's meshes are left where they are.  Where a recorded assignment has moved a mesh, the
    block follows it, and refuses derivatives for what it depends on.
    """

    def stand_on(self, meshes: Iterable[Any]) -> None:
        """Note where the meshes are.  After all other dependencies."""
        found = dict.fromkeys(meshes)
        self._meshes = list(found)
        for mesh in self._meshes:
            if is_moved_by_the_tape(mesh):
                self.add_dependency(mesh)
        self._mesh_nodes = [bv for bv in self.get_dependencies() if bv.output in found]
        followed = {bv.output for bv in self._mesh_nodes}
        # Without the meshes, whose hashes cost more than all else at an evaluation.
        self._snapshots = [snapshots_of(mesh) for mesh in self._meshes]
        self._recorded = [
            (known, known.present())
            for mesh, known in zip(self._meshes, self._snapshots, strict=True)
            if mesh not in followed
        ]

    @property
    def meshes(self) -> list[Any]:
        """The meshes."""
        return self._meshes

    def recompute(self, markings: bool = False) -> None:
        """As pyadjoint's, on the recorded meshes."""
        self._check(bv.is_control for bv in self._free_nodes())
        with self._recorded_meshes():
            super().recompute(markings)

    def evaluate_adj(self, markings: bool = False) -> None:
        """As pyadjoint's, on the recorded meshes."""
        if any(output.adj_value is not None for output in self.get_outputs()):
            self._check(bv.is_control_dependent for bv in self._mesh_nodes)
        self._check(bv.is_control_dependent for bv in self._free_nodes())
        for node in self.get_dependencies():
            node.adj_value = with_cheap_sums(node.adj_value)
        with self._recorded_meshes():
            super().evaluate_adj(markings)

    def evaluate_tlm(self, markings: bool = False) -> None:
        """As pyadjoint's, on the recorded meshes."""
        nodes = [*self._mesh_nodes, *self._free_nodes()]
        self._check(bv.tlm_value is not None for bv in nodes)
        with self._recorded_meshes():
            super().evaluate_tlm(markings)

    def evaluate_hessian(self, markings: bool = False) -> None:
        """As pyadjoint's, on the recorded meshes."""
        for node in self.get_dependencies():
            node.hessian_value = with_cheap_sums(node.hessian_value)
        with self._recorded_meshes():
            super().evaluate_hessian(markings)

    def _free_nodes(self) -> Iterator[Any]:
        """Nodes of the meshes, or of their coordinates, that no block has made."""
        for mesh in self._meshes:
            for source in (mesh, mesh.coordinates):
                node = source._block_variable()
                if node is not None and not is_moved_by_the_tape(mesh):
                    yield node

    def _check(self, flags: Iterable[bool]) -> None:
        if any(flags):
            raise NotImplementedError(
                f"{self}: the coordinates of a mesh are a control, or a derivative with respect to "
                "them was asked for, which femnn does not take. For functionals without networks "
                "use firedrake.assemble, for equations without networks firedrake.solve, which do."
            )

    @contextmanager
    def _recorded_meshes(self) -> Iterator[None]:
        """Have the meshes where they were recorded, and then where they are now.  Collective."""
        here = [(known, known.present()) for known in self._snapshots]
        for node in self._mesh_nodes:
            if node.checkpoint is None:
                raise RuntimeError(
                    f"{self}: the recorded coordinates of a mesh that moves are not kept under a "
                    "checkpointing schedule: record without one."
                )
        self._move(self._recorded)
        try:
            yield
        finally:
            self._move(here)

    @staticmethod
    @no_annotations
    def _move(places: Sequence[tuple[Snapshots, Coordinates]]) -> None:
        for known, place in places:
            if known.differ(place):
                known.move(place)
