"""Directions of Functions and Constants, and derivatives of forms and expressions along them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from pyadjoint.tape import no_annotations
from ufl.algorithms import expand_derivatives

from femnn.fields.derivatives import entry_derivative, expression_derivative


@dataclass(frozen=True)
class Direction:
    """A Function or Constant in a form, and its change.

    Attributes
    ----------
    of, change
        Both Functions on one space, or both Constants of one shape.
    """

    of: Any
    change: Any

    @classmethod
    @no_annotations
    def like(cls, of: Any) -> Direction:
        """A zero direction."""
        if isinstance(of, fd.Constant):
            return cls(of, fd.Constant(np.zeros(of.ufl_shape)))
        return cls(of, fd.Function(of.function_space()))

    @no_annotations
    def assign(self, value: Any) -> None:
        """Set the change."""
        if isinstance(self.of, fd.Constant):
            values = value.dat.data_ro if isinstance(value, fd.Constant) else np.asarray(value)
            self.change.assign(values.reshape(self.of.ufl_shape))
        else:
            self.change.assign(value)


def directional_derivative(form: ufl.Form, directions: Sequence[Direction]) -> ufl.Form:
    """The derivative of a form along directions."""
    form = expand_derivatives(form)
    total = ufl.Form([])
    if not isinstance(form, ufl.Form) or form.empty():
        return total
    for direction in directions:
        if isinstance(direction.of, fd.Constant):
            for index in np.ndindex(direction.of.ufl_shape):
                entry = direction.change[index] if index else direction.change
                total = total + _scaled(entry_derivative(form, direction.of, index), entry)
        else:
            total = total + fd.derivative(form, direction.of, direction.change)
    return total


def expression_along(expression: Any, directions: Sequence[Direction]) -> Any:
    """The derivative of an expression along directions."""
    total = ufl.constantvalue.Zero(expression.ufl_shape)
    for direction in directions:
        if isinstance(direction.of, fd.Constant):
            for index in np.ndindex(direction.of.ufl_shape):
                entry = direction.change[index] if index else direction.change
                total = total + entry * entry_derivative(expression, direction.of, index)
        else:
            total = total + expression_derivative(expression, direction.of, direction.change)
    return total


def _scaled(form: ufl.Form, factor: Any) -> ufl.Form:
    integrals = [i.reconstruct(integrand=factor * i.integrand()) for i in form.integrals()]
    return ufl.Form(integrals)
