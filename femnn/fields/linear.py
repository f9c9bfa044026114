"""Functionals that are linear in a Function, as vectors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import firedrake as fd
import ufl
from ufl.algorithms import expand_derivatives
from ufl.algorithms.check_arities import ArityMismatch, check_form_arity
from ufl.algorithms.formtransformations import compute_form_with_arity

from femnn.fields.copies import CoordinateState, dependencies_of, is_real, meshes_of, version
from femnn.fields.cotangents import Cotangent
from femnn.fields.kept import KeptForm
from femnn.fields.stamp import Stamp, Validity


class LinearFunctional:
    """A functional as the product of a vector with a Function, in which it is linear.

    The vector is assembled when what else stands in the form has changed.

    Parameters
    ----------
    form
        The form, of rank one, with its derivatives carried out.
    function
        What the test function stands for.
    """

    def __init__(self, form: ufl.Form, function: fd.Function):
        self._function = function
        self._assemble = KeptForm(form)
        self._others = dependencies_of(form)
        self._moved = [CoordinateState(mesh) for mesh in meshes_of(form)]
        self._assembled = Validity(function.comm)
        self._vector: Cotangent | None = None

    def vector(self) -> Cotangent:
        """The derivative, which is not to be changed.  Collective."""
        moves = (moved() for moved in self._moved)
        present = Stamp((*map(version, self._others), *moves))
        if self._vector is None or not self._assembled.holds(present):
            self._vector = self._assemble()
            self._assembled.note(present)
        return self._vector

    def value(self) -> float:
        """The functional's value.  Collective."""
        with self.vector().dat.vec_ro as a, self._function.dat.vec_ro as b:
            return a.dot(b)


def linear_in(form: ufl.Form, functions: Iterable[Any]) -> dict[Any, LinearFunctional]:
    """A functional by those of these Functions in which it is linear, without a constant term."""
    found = {}
    for function in functions:
        of_test = _with_test_function(form, function)
        if of_test is not None:
            found[function] = LinearFunctional(of_test, function)
    return found


def _with_test_function(form: ufl.Form, function: Any) -> ufl.Form | None:
    """The form with a test function in a Function's place; ``None`` where it is not linear."""
    if not isinstance(function, fd.Function) or any(map(is_real, function.function_space())):
        return None
    test = fd.TestFunction(function.function_space())
    try:
        of_test = expand_derivatives(ufl.replace(form, {function: test}))
        # The first sees products and sums, the second vectors with other entries beside.
        check_form_arity(of_test, of_test.arguments())
        compute_form_with_arity(of_test, 1)
    except (ArityMismatch, ValueError):
        return None
    return None if of_test.empty() else of_test
