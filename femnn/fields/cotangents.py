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


def with_cheap_sums(value: Any) -> Any:
    """A Cofunction of Firedrake's as a Cotangent with the same data; anything else as it is."""
    if type(value) is not fd.Cofunction:
        return value
    with stop_annotating():
        return Cotangent(value.function_space(), val=value.dat)


def scaled(factor: float, value: fd.Cofunction | fd.Function) -> Cotangent:
    """A new Cotangent, a factor times what a Cofunction or a Function has for values."""
    space = value.function_space()
    dual = space if isinstance(value, fd.Cofunction) else space.dual()
    with stop_annotating():
        result = Cotangent(dual, val=type(value.dat)(value.dat))
    if factor != 1.0:
        with result.dat.vec as vector:
            vector.scale(factor)
    return result


def zero_cotangent(space: Any) -> Cotangent:
    """Zero in the dual of a function space."""
    return zero_in(space.dual())


def zero_in(dual: Any) -> Cotangent:
    """Zero in a dual space; Firedrake makes one anew whenever a space is asked for its dual."""
    with stop_annotating():
        return Cotangent(dual)
