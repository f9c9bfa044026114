"""Forms with neural coefficients: quadrature degrees, and derivatives by the chain rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from tsfc.ufl_utils import compute_form_data
from ufl.algorithms import extract_arguments, extract_coefficients
from ufl.algorithms.apply_restrictions import apply_restrictions
from ufl.algorithms.map_integrands import map_integrand_dags
from ufl.corealg.multifunction import MultiFunction

from femnn.coefficient import neural_coefficients
from femnn.quadrature import asked_degree, entry_derivative, expression_derivative


def with_degrees(form: Any) -> Any:
    """The form with each neural coefficient's quadrature degree in the integrals that hold it.

    Integrals that hold none keep the degree that they have without neural coefficients: where
    a form holds values at quadrature points, Firedrake would give that rule to all integrals
    without a degree, and so another one to derivatives in which these values do not stand.

    Raises
    ------
    ValueError
        If a measure has another degree, or two coefficients in one integral differ.
    """
    if isinstance(form, ufl.FormSum):
        parts = [with_degrees(c) if isinstance(c, ufl.Form) else c for c in form.components()]
        return ufl.FormSum(*zip(parts, form.weights(), strict=True))
    at_points = any(_rule_degrees(c) for c in form.coefficients())
    return ufl.Form([_with_degree(integral, at_points) for integral in form.integrals()])


def _with_degree(integral: ufl.Integral, at_points: bool) -> ufl.Integral:
    found = neural_coefficients(integral.integrand())
    coefficients = [c for c in found if c.degree is not None]
    if not coefficients:
        return _with_own_degree(integral) if at_points else integral
    first, place = coefficients[0], integral.integral_type()
    for coefficient in coefficients:
        if coefficient.at.integral_type != place:
            raise ValueError(
                f"{coefficient.name()} is evaluated at the points of {coefficient.measure} and "
                f"stands in an integral of type {place!r}: make it with measure=dx, ds or dS, as "
                "the integral is. One network can be in several coefficients."
            )
    for other in coefficients[1:]:
        if other.degree != first.degree:
            raise ValueError(
                f"{first.name()} has quadrature degree {first.degree} and {other.name()} has "
                f"{other.degree}, and both stand in one integral: give both the same degree=..."
            )
    _check_default_degree(first, integral)
    metadata = dict(integral.metadata())
    asked = asked_degree(integral)
    if asked is not None and asked != first.degree:
        raise ValueError(
            f"the measure has quadrature degree {asked}, but {first.name()} in it has degree "
            f"{first.degree}: write dx without a degree, or give the coefficient "
            f"degree={asked}."
        )
    scheme = metadata.get("quadrature_rule", metadata.get("scheme", "default"))
    if scheme != "default":
        raise ValueError(
            f"the measure has the quadrature scheme {scheme!r}, but {first.name()} in it is "
            "evaluated at the points of the default scheme: write dx without a scheme."
        )
    metadata["quadrature_degree"] = first.degree
    return integral.reconstruct(metadata=metadata)


def _with_own_degree(integral: ufl.Integral) -> ufl.Integral:
    """The degree of Functions in a Quadrature space, or the one that UFL estimates."""
    if asked_degree(integral) is not None:
        return integral
    functions = extract_coefficients(integral.integrand())
    degrees = {degree for f in functions for degree in _rule_degrees(f)}
    if not degrees:
        data = compute_form_data(ufl.Form([integral])).integral_data
        degrees = {i.metadata()["estimated_polynomial_degree"] for d in data for i in d.integrals}
    if len(degrees) > 1:
        raise ValueError(
            f"an integral without a quadrature degree holds Functions of the degrees "
            f"{sorted(degrees)}: write dx(degree=...) with the one that is meant."
        )
    metadata = {**integral.metadata(), "quadrature_degree": degrees.pop()}
    return integral.reconstruct(metadata=metadata)


def _rule_degrees(function: Any) -> list[int]:
    """The degrees of a Function's parts that are values at a rule's points."""
    elements = [space.ufl_element() for space in function.function_space().subspaces]
    return [e.embedded_superdegree for e in elements if "Quadrature" in e.family()]


def _check_default_degree(coefficient: Any, integral: ufl.Integral) -> None:
    """Refuse a degree that was guessed before the test function was known, and is too low."""
    arguments = extract_arguments(integral.integrand())
    spaces = [space for a in arguments for space in a.function_space().subspaces]
    p = max((space.ufl_element().embedded_subdegree for space in spaces), default=0)
    if coefficient.has_default_degree and coefficient.degree < 2 * p:
        raise ValueError(
            f"{coefficient.name()} has the default quadrature degree {coefficient.degree}, found "
            f"from its operands alone, which is too low for test functions of degree {p}: give it "
            f"degree={2 * p + 2}."
        )


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
