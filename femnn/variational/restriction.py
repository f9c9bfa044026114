"""What goes to and fro between an unknown and its part that boundary conditions leave free."""

from __future__ import annotations

from collections.abc import Sequence

import firedrake as fd

from femnn.fields.boundary import BoundaryValues


class Restriction:
    """Firedrake's problem on a restricted space, beside the same problem on the whole one.

    Networks have operands of the unknown on the whole space, and boundary conditions their
    values there.  Firedrake copies both when it makes its problem.

    Parameters
    ----------
    problem
        Firedrake's problem, restricted or not.
    unknown
        The unknown on the whole space.
    boundary
        The boundary conditions, in the problem's order.
    """

    def __init__(
        self,
        problem: fd.NonlinearVariationalProblem,
        unknown: fd.Function,
        boundary: Sequence[BoundaryValues],
    ):
        self._unknown, self._free = unknown, problem.u_restrict
        pairs = zip(problem.bcs, boundary, strict=True) if problem.restrict else ()
        values = ((bc._original_arg, b.value) for bc, b in pairs)
        self._boundary = [(theirs, ours) for theirs, ours in values if theirs is not ours]

    def __bool__(self) -> bool:
        return self._free is not self._unknown

    def pass_boundary(self) -> None:
        """Let the restricted problem's conditions have the values that are loaded."""
        for theirs, ours in self._boundary:
            theirs.assign(ours)

    def read_iterate(self) -> None:
        """Let the unknown be the restricted problem's iterate."""
        if self:
            self._unknown.assign(self._free)
