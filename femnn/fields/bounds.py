"""Bounds of an unknown in private copies, and the unknowns that are held by them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import firedrake as fd
import numpy as np
from firedrake.petsc import PETSc
from pyadjoint.tape import stop_annotating

from femnn.fields.boundary import BoundaryValues
from femnn.fields.copies import copy_values, is_real
from femnn.fields.cotangents import Cotangent, zero_cotangent
from femnn.parallel import any_rank, any_rank_each

Pair: TypeAlias = tuple[fd.Function, fd.Function]

ELSEWHERE = (
    "the unknowns at their bounds are not known on coarser meshes and in other elements: give "
    "adjoint_solver_parameters=... without Firedrake's multigrid for derivatives with bounds."
)


class HeldNodes(fd.DirichletBC):
    """Firedrake's condition that values are zero, at given nodes.

    Parameters
    ----------
    space
        A function space that is not mixed, also a part or a component of another.
    nodes
        The rank's, with those of its halo.
    """

    def __init__(self, space: Any, nodes: np.ndarray, *args: Any):
        if not isinstance(nodes, np.ndarray):
            raise NotImplementedError(ELSEWHERE)
        self._nodes = nodes
        super().__init__(space, 0, "on_boundary")

    @property
    def nodes(self) -> np.ndarray:
        """The nodes."""
        return self._nodes

    def reconstruct(
        self,
        field: Any = None,
        V: Any = None,
        g: Any = None,
        sub_domain: Any = None,
        use_split: bool = False,
        indices: Sequence[int] = (),
    ) -> HeldNodes | None:
        """The same at the nodes of another space that has these."""
        space = self.function_space() if V is None else V
        for index in indices:
            space = space.sub(index)
        if field is not None:
            space = self.as_subspace(field, space, use_split)
        if space is None:
            return None
        if space.node_set is not self.function_space().node_set:
            raise NotImplementedError(ELSEWHERE)
        return HeldNodes(space, self._nodes)


class SameField:
    """A Function that is taken as it is; what :class:`Interpolated` is for boundary values."""

    def __init__(self, source: fd.Function):
        self.source = source
        self.dependencies = [source]

    def direction(self, dots: Mapping[Any, Any]) -> Any:
        """Its change in a direction; ``None`` where there is none."""
        return dots.get(self.source)

    def change(self, moving: Any) -> Any:
        """Its change."""
        return moving

    def cotangent(self, dependency: Any, cotangent: fd.Cofunction) -> Cotangent:
        """A cotangent of its values carried to itself."""
        total = zero_cotangent(self.source.function_space())
        copy_values(cotangent, total)
        return total

    def cotangent_change(
        self, dependency: Any, cotangent: fd.Cofunction, change: fd.Cofunction, moving: Any
    ) -> Cotangent:
        """The change of :meth:`cotangent`."""
        return self.cotangent(dependency, change)


class Bound:
    """The lower or the upper bound, which holds as a boundary condition where it is active.

    Parameters
    ----------
    space
        The unknown's.
    side
        1 for the lower bound, -1 for the upper.

    Attributes
    ----------
    value : firedrake.Function
        Its values.
    active : firedrake.Function
        One at the unknowns that it holds, zero at others.
    given : SameField
        What the values are.
    """

    def __init__(self, space: Any, side: int):
        self.side = side
        self.value, self.active = fd.Function(space), fd.Function(space)
        self._hold_nothing()

    def _hold_nothing(self) -> None:
        self.given = SameField(self.value)
        with stop_annotating():
            self.value.assign(-self.side * PETSc.INFINITY)

    def load(self, source: fd.Function | None, values: Mapping[Any, Any]) -> None:
        """Take values; without a Function none that could be reached."""
        if source is None:
            if self.given.source is not self.value:
                self._hold_nothing()
        else:
            self.given = SameField(source)
            copy_values(values.get(source, source), self.value)

    def find(
        self, iterate: fd.Function, residual: fd.Cofunction, tolerance: float
    ) -> tuple[bool, bool]:
        """Find the unknowns that it holds, as PETSc does.

        Returns
        -------
        differs : bool
            Whether these are others than before, on this rank.
        misses : bool
            Whether it should hold others, which the solve has not brought near enough.
        """
        differs = misses = False
        parts = (iterate.dat, residual.dat, self.value.dat, self.active.dat)
        for x, f, bound, active in zip(*parts, strict=True):
            distance, pressure = self.side * (x.data_ro - bound.data_ro), self.side * f.data_ro
            found = (distance <= tolerance) & (pressure > 0.0)
            misses |= bool((~found & (pressure > np.maximum(distance, 0.0))).any())
            differs |= bool((found != (active.data_ro > 0.0)).any())
            active.data_wo[...] = found
        return differs, misses

    def zero(self, field: Any) -> None:
        """Let a field be zero at the unknowns that the bound holds."""
        for values, active in zip(field.dat, self.active.dat, strict=True):
            values.data_wo[active.data_ro > 0.0] = 0.0

    def cotangent(self, field: Any) -> fd.Cofunction:
        """The part of a field that is at these."""
        part = fd.Cofunction(self.value.function_space().dual())
        for mine, values, active in zip(part.dat, field.dat, self.active.dat, strict=True):
            mine.data_wo[...] = values.data_ro * active.data_ro
        return part

    def lift(self, change: fd.Function | None, into: fd.Function) -> None:
        """Set a change of the values (``None`` for zero) there."""
        self.zero(into)
        if change is not None:
            for values, new, active in zip(into.dat, change.dat, self.active.dat, strict=True):
                at = active.data_ro > 0.0
                values.data_wo[at] = new.data_ro[at]

    def homogeneous(self) -> list[fd.DirichletBC]:
        """Firedrake's conditions that a change is zero there; the same number on all ranks."""
        return list(_held(self.active))


class Bounds:
    """Lower and upper bounds.

    Parameters
    ----------
    space
        The unknown's.

    Attributes
    ----------
    sides : tuple of Bound
        Lower and upper.
    given : tuple of firedrake.Function or None
        The user's bounds that are loaded.
    version : int
        Counts changes of what the bounds hold.
    """

    def __init__(self, space: Any):
        self.sides = (Bound(space, 1), Bound(space, -1))
        self.given: Pair | None = None
        self.version = 0
        self._comm = space.mesh().comm

    @property
    def values(self) -> Pair:
        """Private copies of the bounds."""
        lower, upper = self.sides
        return lower.value, upper.value

    def load(
        self,
        given: Pair | None,
        values: Mapping[Any, Any],
        boundary: Sequence[BoundaryValues],
        tolerance: float,
    ) -> None:
        """Take values; the Functions' own where none are given.  Collective.

        Raises
        ------
        ValueError
            If a lower bound is above an upper one, or a boundary value is outside.
        """
        self.given = given
        for side, source in zip(self.sides, given or (None, None), strict=True):
            side.load(source, values)
        if given is not None:
            self._check(boundary, tolerance)

    def find(self, iterate: fd.Function, residual: fd.Cofunction, tolerance: float) -> None:
        """Find the unknowns that the bounds hold.  Collective.

        Parameters
        ----------
        iterate
            The unknown.
        residual
            The residual, zero where boundary conditions hold.
        tolerance
            How near to a bound an unknown is at it.

        Raises
        ------
        RuntimeError
            If an unknown is neither at a bound nor free of what presses it there.
        """
        differ, miss = zip(*(s.find(iterate, residual, tolerance) for s in self.sides), strict=True)
        differs, misses = any_rank_each(self._comm, [any(differ), any(miss)])
        if misses:
            raise RuntimeError(
                "a solution with bounds has unknowns that a residual presses against a bound, but "
                f"which are farther from it than {tolerance:.0e}, so that a derivative would be "
                "wrong: solve more exactly (snes_rtol, snes_atol), or let snes_vi_zero_tolerance "
                "be larger."
            )
        if differs:
            self.version += 1

    def _check(self, boundary: Sequence[BoundaryValues], tolerance: float) -> None:
        lower, upper = self.values
        values = lower.copy(deepcopy=True)
        for condition in boundary:
            condition.bc.apply(values)
        inside = True
        for x, low, high in zip(values.dat, lower.dat, upper.dat, strict=True):
            inside &= bool((low.data_ro - tolerance <= x.data_ro).all())
            inside &= bool((x.data_ro <= high.data_ro + tolerance).all())
        if any_rank(self._comm, not inside):
            raise ValueError(
                "bounds: at some nodes the lower bound is above the upper one, a boundary value is "
                "outside of them, or one is NaN, so that no solution can be between them: let "
                "lower <= upper everywhere, and lower <= value <= upper where a DirichletBC holds."
            )


def _held(active: fd.Function) -> Iterator[HeldNodes]:
    spaces = active.function_space()
    for part, space in zip(active.subfunctions, spaces.subspaces, strict=True):
        data = part.dat.data_ro_with_halos
        if is_real(space):
            if data.any():
                raise NotImplementedError("bounds: an unknown on a Real space is at its bound.")
        elif data.ndim == 1:
            yield HeldNodes(space, _nodes(data))
        else:
            for i, component in enumerate(data.reshape(len(data), -1).T):
                yield HeldNodes(space.sub(i), _nodes(component))


def _nodes(active: np.ndarray) -> np.ndarray:
    return np.flatnonzero(active > 0.0).astype(np.int32)


Condition: TypeAlias = BoundaryValues | Bound
