"""Derivatives of forms in which networks stand, by the chain rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from ufl.algorithms.apply_restrictions import apply_restrictions
from ufl.algorithms.map_integrands import map_integrand_dags
from ufl.corealg.multifunction import MultiFunction

from femnn.fields.derivatives import entry_derivative, expression_derivative


@dataclass(frozen=True)
class Implicit:
    """A coefficient of the unknown, as it stands in a solver's forms.

    Attributes
    ----------
    value
        Function on the Quadrature space with the network's values.
    slope
        Function with the derivative, shape ``(n_outputs, n_inputs)`` (``(n_inputs,)`` for
        one output).
    operands
        UFL vector of the inputs.
    between_cells
        Whether it is on interior facets, so that operands are restricted to sides.
    """

    value: fd.Function
    slope: fd.Function
    operands: Any
    between_cells: bool = False

    def variation(self, direction_of_operands: Any) -> Any:
        """The change of the value for a change of the operands, to first order."""
        slope = self.slope("+") if self.between_cells else self.slope
        flat = ufl.dot(slope, direction_of_operands)
        shape = self.value.ufl_shape
        if len(shape) < 2:
            return flat
        columns = np.arange(int(np.prod(shape))).reshape(shape)
        return ufl.as_tensor(_nested(columns, flat))


def _nested(columns: np.ndarray, flat: Any) -> Any:
    if columns.ndim == 0:
        return flat[int(columns)]
    return [_nested(c, flat) for c in columns]


def total_derivative(
    form: ufl.Form, u: fd.Function, direction: Any, implicit: Sequence[Implicit]
) -> ufl.Form:
    """D form / du in a direction, with the networks' values seen as functions of ``u``.

    The UFL chain rule: the partial derivative, and for each network dF/dq applied to
    (dN/d operands)(d operands / du), all in one form.
    """
    derivative = fd.derivative(form, u, direction)
    for network in implicit:
        change = expression_derivative(network.operands, u, direction)
        derivative = derivative + _along(form, network, change)
    return derivative


def constant_derivative(
    form: ufl.Form, constant: fd.Constant, index: tuple[int, ...], implicit: Sequence[Implicit]
) -> ufl.Form:
    """D form / d (one entry of a Constant), with the networks seen as functions of it."""
    derivative = entry_derivative(form, constant, index)
    for network in implicit:
        change = entry_derivative(network.operands, constant, index)
        derivative = derivative + _along(form, network, change)
    return derivative


def _along(form: ufl.Form, network: Implicit, change: Any) -> ufl.Form:
    if isinstance(change, ufl.constantvalue.Zero):
        return ufl.Form([])
    variation = network.variation(change)
    if not network.between_cells:
        return fd.derivative(form, network.value, variation)
    # The variation is of a facet and holds both sides: it takes the place of a restricted field.
    stand_in = fd.Function(network.value.function_space())
    derivative = ufl.algorithms.expand_derivatives(fd.derivative(form, network.value, stand_in))
    if not isinstance(derivative, ufl.Form):
        return ufl.Form([])
    return map_integrand_dags(_OnFacets(stand_in, variation), apply_restrictions(derivative))


class _OnFacets(MultiFunction):
    """Puts an expression that is restricted already in the place of a restricted field."""

    expr = MultiFunction.reuse_if_untouched

    def __init__(self, field: fd.Function, expression: Any):
        super().__init__()
        self._field, self._expression = field, expression

    def restricted(self, o: Any) -> Any:
        """Exchange the field on either side; its values are the facet's."""
        return self._expression if o.ufl_operands[0] is self._field else o
