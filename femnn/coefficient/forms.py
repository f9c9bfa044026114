"""Forms with neural coefficients as Firedrake can assemble them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ufl
from ufl.algorithms import expand_derivatives
from ufl.algorithms.apply_algebra_lowering import apply_algebra_lowering
from ufl.algorithms.apply_derivatives import apply_derivatives
from ufl.algorithms.map_integrands import map_integrand_dags
from ufl.classes import (
    CoefficientDerivative,
    Curl,
    Div,
    Grad,
    NablaDiv,
    NablaGrad,
    VariableDerivative,
)
from ufl.corealg.multifunction import MultiFunction
from ufl.corealg.traversal import unique_pre_traversal

from femnn.coefficient.coefficient import NeuralCoefficient, neural_coefficients
from femnn.coefficient.degrees import with_degrees

SPATIAL = (Grad, Div, Curl, NablaGrad, NablaDiv)


def prepared(form: Any, parameters: Mapping | None = None) -> Any:
    """The form with the degrees, sides and gradients of neural coefficients written out.

    Parameters
    ----------
    form
        A form, or a sum of forms and Cofunctions.
    parameters
        The form compiler's; their ``quadrature_degree`` is that of measures without one.

    Raises
    ------
    NotImplementedError
        If a coefficient stands under a derivative in space that it does not have.
    ValueError
        If a measure's degree or place is not a coefficient's, or two coefficients in one integral
        differ.
    """
    if isinstance(form, ufl.FormSum):
        parts = [
            prepared(c, parameters) if isinstance(c, ufl.Form) else c for c in form.components()
        ]
        return ufl.FormSum(*zip(parts, form.weights(), strict=True))
    key = ("femnn", (parameters or {}).get("quadrature_degree"))
    if key not in form._cache:  # UFL's place for what others carry with a form
        form._cache[key] = _prepared(form, parameters)
    return form._cache[key]


def _prepared(form: ufl.Form, parameters: Mapping | None) -> ufl.Form:
    if neural_coefficients(form):
        form = with_sides(with_gradients(with_derivatives(form)))
    return with_degrees(form, parameters)


def check_interpolated(expression: Any) -> None:
    """Refuse values at quadrature points, between which there are none.

    Raises
    ------
    NotImplementedError
        If a coefficient stands there that has its values at quadrature points.
    """
    for coefficient in _at_points(expression):
        raise NotImplementedError(f"interpolate: {coefficient.why_not_between}")


def with_derivatives(form: ufl.Form) -> ufl.Form:
    """The form with derivatives by Functions and variables carried out, through the networks.

    Raises
    ------
    NotImplementedError
        If a derivative of a coefficient in space stands under them.
    """
    nodes = [n for i in form.integrals() for n in unique_pre_traversal(i.integrand())]
    derivatives = [n for n in nodes if isinstance(n, (CoefficientDerivative, VariableDerivative))]
    for inside in (n for d in derivatives for n in unique_pre_traversal(d)):
        for law in neural_coefficients(inside) if isinstance(inside, SPATIAL) else []:
            raise NotImplementedError(
                f"{law.name()} stands under a derivative in space, and that under a derivative by "
                f"a Function or a variable: write {law.name()}.grad() for the first."
            )
    return expand_derivatives(form) if derivatives else form


def with_gradients(form: ufl.Form) -> ufl.Form:
    """The form with derivatives in space of values at quadrature points by the chain rule.

    Raises
    ------
    NotImplementedError
        If a coefficient has no gradient in space; see :meth:`NeuralCoefficient.grad`.
    """
    return ufl.Form([_with_gradients(integral) for integral in form.integrals()])


def _with_gradients(integral: ufl.Integral) -> ufl.Integral:
    nodes = unique_pre_traversal(integral.integrand())
    if not any(isinstance(n, SPATIAL) and _at_points(n) for n in nodes):
        return integral
    integrand = apply_derivatives(apply_algebra_lowering(integral.integrand()))
    return integral.reconstruct(integrand=map_integrand_dags(_Gradients(), integrand))


def _at_points(expression: Any) -> list[NeuralCoefficient]:
    return [c for c in neural_coefficients(expression) if c.degree is not None]


class _Gradients(MultiFunction):
    """Puts the chain rule in the place of a coefficient's gradient."""

    expr = MultiFunction.reuse_if_untouched

    def grad(self, o: Any) -> Any:
        """Exchange the gradient of a coefficient at quadrature points."""
        (f,) = o.ufl_operands
        found = _at_points(f)
        if not found:
            return o
        if f is not found[0]:
            raise NotImplementedError(
                f"{found[0].name()} stands under two derivatives in space: only the first, grad(k),"
                " can be taken of values at quadrature points. Integrate by parts, or evaluate the "
                "network at the nodes of a space that has two: NeuralCoefficient(..., space=V)."
            )
        return f.grad()


def with_sides(form: ufl.Form) -> ufl.Form:
    """The form with a side for each coefficient on interior facets; both sides' are the same."""
    return ufl.Form([_with_sides(integral) for integral in form.integrals()])


def _with_sides(integral: ufl.Integral) -> ufl.Integral:
    if not any(c.points.between_cells for c in neural_coefficients(integral.integrand())):
        return integral
    return integral.reconstruct(integrand=map_integrand_dags(_Sides(), integral.integrand()))


class _Sides(MultiFunction):
    """Restricts coefficients on interior facets to a side where they have none."""

    expr = MultiFunction.reuse_if_untouched

    def restricted(self, o: Any) -> Any:
        """Leave what has a side."""
        return o

    def coefficient(self, o: Any) -> Any:
        """Restrict a coefficient on interior facets."""
        between_cells = isinstance(o, NeuralCoefficient) and o.points.between_cells
        return o("+") if between_cells else o
