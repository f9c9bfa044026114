"""Adjoint values of fields."""

from __future__ import annotations

from typing import Any

import firedrake as fd
from pyadjoint.tape import stop_annotating


class Cotangent(fd.Cofunction):
    """A Cofunction that the tape can add to cheaply.

    Firedrake's own ``+=`` generates a kernel at each call, which costs more than a whole
    time step of a small problem.
    """

    def __iadd__(self, other: Any) -> Any:
        if not isinstance(other, fd.Cofunction):
            return super().__iadd__(other)
        with self.dat.vec as mine, other.dat.vec_ro as theirs:
            mine.axpy(1.0, theirs)
        return self


def zero_cotangent(space: Any) -> Cotangent:
    """Zero in the dual of a function space."""
    return zero_in(space.dual())


def zero_in(dual: Any) -> Cotangent:
    """Zero in a dual space; Firedrake makes one anew whenever a space is asked for its dual."""
    with stop_annotating():
        return Cotangent(dual)
