"""Conditions that are equations: whose rows are those of a form of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import firedrake as fd
import ufl

from femnn.fields.boundary import BoundaryValues


class Part:
    """A form, and the rows of the residual that it counts for.

    Parameters
    ----------
    form
        The form.
    rows
        One at the rows that count, zero at others; ``None`` where all do.
    """

    def __init__(self, form: ufl.Form, rows: fd.Function | None = None):
        self.form = form
        self.rows = rows

    def keep(self, field: Any) -> Any:
        """Let a field be zero at the rows that do not count; the field."""
        if self.rows is not None:
            for values, rows in zip(field.dat, self.rows.dat, strict=True):
                values.data_wo[rows.data_ro == 0.0] = 0.0
        return field


class EquationCondition:
    """An EquationBC in private copies.

    Parameters
    ----------
    source
        The user's condition.
    form
        Its residual.
    tangent_of
        Makes the exact derivative of a form.
    unknown
        The unknown.
    inside
        Conditions for the condition.
    is_linear
        Whether the problem is.

    Attributes
    ----------
    tangent : ufl.Form
        The residual's exact derivative.
    bc : firedrake.EquationBC
        The private condition.
    """

    def __init__(
        self,
        source: fd.EquationBC,
        form: ufl.Form,
        tangent_of: Callable[[ufl.Form], ufl.Form],
        unknown: fd.Function,
        inside: Sequence[BoundaryValues],
        is_linear: bool,
    ):
        self.source, self.form, self.inside = source, form, list(inside)
        self.tangent = tangent_of(form)
        given = source.extract_form("F")
        self.bc = fd.EquationBC(
            form == 0,
            unknown,
            given.sub_domain,
            bcs=[condition.bc for condition in inside],
            J=self.tangent,
            V=given.function_space(),
        )
        self.bc.Jp_eq_J = True
        self.bc.is_linear = is_linear

    def zero(self, field: Any) -> None:
        """Let a field be zero at the condition's nodes."""
        self.bc.extract_form("F").zero(field)


def parts_of(
    residual: ufl.Form, conditions: Sequence[BoundaryValues | EquationCondition]
) -> list[Part]:
    """What the residual's rows are made of, as Firedrake puts them together.

    It assembles the residual, and goes through the conditions in their order: each takes its rows
    away from what is there, and a condition that is an equation adds its form.
    """
    if not any(isinstance(c, EquationCondition) for c in conditions):
        return [Part(residual)]
    (test,) = residual.arguments()
    parts = [Part(residual, _ones(test.function_space()))]
    for condition in conditions:
        _take_rows(condition, parts)
        if isinstance(condition, EquationCondition):
            parts.append(Part(condition.form, _ones(test.function_space())))
            for inside in condition.inside:
                _take_rows(inside, parts)
    return parts


def _ones(space: Any) -> fd.Function:
    return fd.Function(space).assign(1.0)


def _take_rows(condition: BoundaryValues | EquationCondition, parts: Sequence[Part]) -> None:
    for part in parts:
        condition.zero(part.rows)


def dirichlet_conditions(conditions: Sequence[Any]) -> list[fd.DirichletBC]:
    """The Dirichlet conditions beside and inside of equations, each once, as they are applied."""
    found = (d for condition in conditions for d in condition.dirichlet_bcs())
    return list({id(d): d for d in found}.values())


def form_of_equation(condition: fd.EquationBC, u: fd.Function) -> ufl.Form:
    """The residual of a condition that is an equation.

    Raises
    ------
    NotImplementedError
        If an equation holds for an equation, or its form is not a form, or it has a tangent of its
        own.
    ValueError
        If it is an equation for something else than the unknown.
    """
    given = condition.extract_form("F")
    if given.u is not u:
        raise ValueError(
            f"an EquationBC is an equation for {given.u.name()}, wanted the unknown {u.name()}."
        )
    if not isinstance(given.f, ufl.Form):
        raise NotImplementedError(
            f"an EquationBC on {given.sub_domain} holds a {type(given.f).__name__}: only a form is "
            "supported, without assembled Cofunctions."
        )
    if not all(isinstance(inner, fd.DirichletBC) for inner in given.bcs):
        raise NotImplementedError(
            f"an EquationBC on {given.sub_domain} has an EquationBC inside: only DirichletBC is "
            "supported there."
        )
    if not condition.is_linear and not _has_exact_tangent(condition):
        raise NotImplementedError(
            f"an EquationBC on {given.sub_domain} has a tangent J or Jp of its own: leave it out, "
            "its exact tangent is used."
        )
    return given.f


def _has_exact_tangent(condition: fd.EquationBC) -> bool:
    given = condition.extract_form("F")
    exact = fd.derivative(given.f, given.u)
    return all(bool(condition.extract_form(kind).f == exact) for kind in ("J", "Jp"))
