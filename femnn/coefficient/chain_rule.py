"""Derivatives of forms in which networks stand, by the chain rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from ufl.algorithms.apply_restrictions import apply_restrictions
from ufl.algorithms.map_integrands import map_integrand_dags
from ufl.corealg.multifunction import MultiFunction

from femnn.fields.derivatives import derivative, entry_derivative


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
        return flat if len(shape) < 2 else _reshaped(flat, shape)


def total_derivative(
    form: ufl.Form, of: Any, change: Any, implicit: Sequence[Implicit]
) -> ufl.Form:
    """The derivative of a form in a direction, with the networks' values seen as functions.

    The UFL chain rule: the partial derivative, and for each network dF/dq applied to
    (dN/d operands)(d operands / du), all in one form.

    Parameters
    ----------
    form
        The form.
    of
        The Function or Constant that changes.
    change
        Its change; see :func:`femnn.fields.derivatives.derivative`.
    implicit
        The networks in the form.
    """
    return _by_chain_rule(form, lambda f: derivative(f, of, change), implicit)


def constant_derivative(
    form: ufl.Form, constant: fd.Constant, index: tuple[int, ...], implicit: Sequence[Implicit]
) -> ufl.Form:
    """D form / d (one entry of a Constant), with the networks seen as functions of it."""
    return _by_chain_rule(form, partial(entry_derivative, constant=constant, index=index), implicit)


def _by_chain_rule(
    form: ufl.Form, change_of: Callable[[Any], Any], implicit: Sequence[Implicit]
) -> ufl.Form:
    total = change_of(form)
    for network in implicit:
        change = change_of(network.operands)
        if not isinstance(change, ufl.constantvalue.Zero):
            total = total + _through(form, network, change)
    return total


def _through(form: ufl.Form, network: Implicit, change: Any) -> ufl.Form:
    """The form's derivative through a network whose operands change."""
    variation = network.variation(change)
    if not network.between_cells:
        return fd.derivative(form, network.value, variation)
    # The variation is of a facet and holds both sides: it takes the place of a restricted field.
    stand_in = fd.Function(network.value.function_space())
    along = ufl.algorithms.expand_derivatives(fd.derivative(form, network.value, stand_in))
    if not isinstance(along, ufl.Form):
        return ufl.Form([])
    return map_integrand_dags(_OnFacets(stand_in, variation), apply_restrictions(along))


class _OnFacets(MultiFunction):
    """Puts an expression that is restricted already in the place of a restricted field."""

    expr = MultiFunction.reuse_if_untouched

    def __init__(self, field: fd.Function, expression: Any):
        super().__init__()
        self._field, self._expression = field, expression

    def restricted(self, o: Any) -> Any:
        """Exchange the field on either side; its values are the facet's."""
        return self._expression if o.ufl_operands[0] is self._field else o


def _reshaped(flat: Any, shape: tuple[int, ...]) -> Any:
    """A UFL vector's components as a tensor of this shape, row by row."""
    components = np.empty(shape, dtype=object)
    for k, index in enumerate(np.ndindex(shape)):
        components[index] = flat[k]
    return ufl.as_tensor(components.tolist())
