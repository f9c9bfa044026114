"""A variational problem written in private copies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import firedrake as fd
import ufl

from femnn.coefficient.chain_rule import total_derivative
from femnn.coefficient.coefficient import NeuralCoefficient, neural_coefficients
from femnn.fields.boundary import BoundaryValues, value_of
from femnn.fields.bounds import Bounds, Condition, Pair
from femnn.fields.cofunctions import WeightedSum
from femnn.fields.copies import Mirrors, dependencies_of, meshes_of
from femnn.fields.equations import EquationCondition, parts_of
from femnn.fields.interpolation import Interpolated
from femnn.variational.network import PrivateNetwork
from femnn.variational.problem import NeuralVariationalProblem

WRITTEN = (ufl.Form, ufl.core.expr.Expr)


@dataclass(frozen=True)
class Given:
    """What holds for an unknown beside its equation.

    Attributes
    ----------
    boundary
        What each boundary condition's values are.
    bounds
        The user's lower and upper bounds, or ``None``.
    """

    boundary: list[Interpolated]
    bounds: Pair | None = None

    @property
    def dependencies(self) -> list[Any]:
        """The Functions and Constants that the values are made of."""
        of_boundary = [d for values in self.boundary for d in values.dependencies]
        return list(dict.fromkeys([*of_boundary, *(self.bounds or ())]))


class PrivateProblem:
    """A problem's forms, conditions and networks in copies of their own.

    Parameters
    ----------
    problem
        The problem.
    appctx
        The user's application context for preconditioners, or ``None``.

    Attributes
    ----------
    copies : dict
        The user's Functions and Constants in forms and operands, each with its private copy.
    unknown : firedrake.Function
        The unknown's copy.
    boundary : list of BoundaryValues
        The Dirichlet conditions, those inside of equations too.
    equations : list of EquationCondition
        The conditions that are equations.
    parts : list of Part
        The residual's form and those of equations, each with the rows for which it counts.
    bounds : Bounds
        The bounds of the unknown.
    assembled : WeightedSum
        The Cofunctions in the residual.
    meshes : list
        The residual's.
    networks : list of PrivateNetwork
        The networks of the unknown.
    residual, tangent : ufl.Form
        The residual, without the Cofunctions, and its exact derivative.
    matrix : ufl.Form
        The user's other tangent for Newton's method, or the exact one.
    preconditioner : ufl.Form or None
        The user's form for it.
    exact : bool
        Whether the matrix is the exact tangent, and not one that the user gave.
    implicit, explicit : list of NeuralCoefficient
        The user's coefficients in the forms and the application context that depend on the
        unknown, and those that do not.
    """

    def __init__(self, problem: NeuralVariationalProblem, appctx: Mapping[str, Any] | None):
        self.problem = problem
        self._appctx = dict(appctx or {})
        self._collect(problem)
        self._mirrors = Mirrors(_sources(problem, self.implicit, self.explicit))
        self.copies = self._mirrors.copies
        self.unknown = self.copies[problem.u]
        self.boundary = [BoundaryValues(bc) for bc in problem.dirichlet]
        self.bounds = Bounds(problem.u.function_space())
        self.assembled = WeightedSum(problem.assembled, problem.u.function_space().dual())
        self.networks = [PrivateNetwork(c, self._mirrors) for c in self.implicit]
        forms = [problem.F, *problem.equations.values()]
        self.meshes = list(dict.fromkeys(m for form in forms for m in meshes_of(form)))
        self.residual = self._privately(problem.F)
        self.tangent = self._tangent_of(self.residual)
        self.equations = [self._equation(bc) for bc in problem.equations]
        self.parts = parts_of(self.residual, self._in_order())
        self.exact = problem.J is None
        self.matrix = self.tangent if self.exact else self._privately(problem.J)
        self.preconditioner = None if problem.Jp is None else self._privately(problem.Jp)

    def _collect(self, problem: NeuralVariationalProblem) -> None:
        """Find the user's coefficients, those in the application context too."""
        held = [v for v in self._appctx.values() if isinstance(v, WRITTEN)]
        found = [c for value in held for c in neural_coefficients(value)]
        of_unknown = [c for c in found if c.depends_on(problem.u)]
        others = [c for c in found if c not in of_unknown]
        self.implicit: list[NeuralCoefficient] = _merged(problem.implicit, of_unknown)
        self.explicit: list[NeuralCoefficient] = _merged(problem.explicit, others)

    @property
    def held(self) -> list[Any]:
        """The Functions and Constants in the private forms and operands."""
        networks = [f for n in self.networks for f in (n.terms.value, n.terms.slope)]
        return [*self.copies.values(), *networks]

    @property
    def in_matrix(self) -> list[Any]:
        """The Functions and Constants in the forms that become matrices."""
        forms = [form for form in (self.matrix, self.preconditioner) if form is not None]
        forms += [equation.tangent for equation in self.equations]
        expanded = [ufl.algorithms.expand_derivatives(form) for form in forms]
        return list(dict.fromkeys(d for form in expanded for d in dependencies_of(form)))

    @property
    def comm(self) -> Any:
        """The ranks that share the unknown."""
        return self.unknown.comm

    @property
    def dependencies(self) -> list[Any]:
        """What the solution depends on, boundary values and bounds apart, and the initial guess."""
        weights = dict.fromkeys(n.weights for n in self.networks)
        return _merged([*weights, *self.copies], self.assembled.copies)

    def present(self, bounds: Pair | None = None) -> Given:
        """What the user's boundary conditions say now, with these bounds."""
        return Given([condition.present() for condition in self.boundary], bounds)

    @property
    def conditions(self) -> list[Condition]:
        """The boundary conditions, and where there are bounds these, which hold some unknowns."""
        return [*self.boundary, *(self.bounds.sides if self.bounds.given else ())]

    def conditions_of(self, dependency: Any) -> list[Condition]:
        """The conditions whose values that are loaded depend on something."""
        return [c for c in self.conditions if dependency in c.given.dependencies]

    def appctx(self) -> dict[str, Any]:
        """The user's application context, its forms and expressions written in private copies."""
        return {
            name: self._privately(value) if isinstance(value, WRITTEN) else value
            for name, value in self._appctx.items()
        }

    def firedrake_conditions(self) -> list[Any]:
        """The private boundary conditions in the user's order, for a solver of Firedrake's."""
        return [condition.bc for condition in self._in_order()]

    def _in_order(self) -> list[BoundaryValues | EquationCondition]:
        """The conditions beside the residual, in the user's order."""
        made: dict[int, Any] = {id(b.source): b for b in self.boundary}
        made |= {id(e.source): e for e in self.equations}
        return [made[id(bc)] for bc in self.problem.bcs]

    def _equation(self, source: fd.EquationBC) -> EquationCondition:
        inside = {id(bc) for bc in source.dirichlet_bcs()}
        return EquationCondition(
            source,
            self._privately(self.problem.equations[source]),
            self._tangent_of,
            self.unknown,
            [b for b in self.boundary if id(b.source) in inside],
            self.problem.is_linear,
        )

    def _tangent_of(self, form: ufl.Form) -> ufl.Form:
        trial = fd.TrialFunction(self.unknown.function_space())
        terms = [n.terms for n in self.networks]
        return total_derivative(form, self.unknown, trial, terms)

    def _privately(self, form: Any) -> Any:
        values = {n.coefficient: n.terms.value for n in self.networks}
        return ufl.replace(form, {**self.copies, **values})


def _merged(first: Iterable[Any], further: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys([*first, *further]))


def _sources(
    problem: NeuralVariationalProblem, implicit: Sequence[Any], explicit: Sequence[Any]
) -> Iterable[Any]:
    """The user's Functions and Constants in the problem's forms and operands."""
    expressions = [*problem.forms, *(c.inputs for c in implicit)]
    found = [d for e in expressions for d in dependencies_of(e) if d not in implicit]
    in_values = {d for bc in problem.dirichlet for d in dependencies_of(value_of(bc))}
    return dict.fromkeys([problem.u, *found, *(c for c in explicit if c not in in_values)])
