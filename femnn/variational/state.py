"""A variational problem in private copies, and what has been computed from their values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from firedrake.petsc import DEFAULT_KSP_PARAMETERS

from femnn.coefficient.chain_rule import total_derivative
from femnn.coefficient.coefficient import NeuralCoefficient, neural_coefficients
from femnn.fields.boundary import BoundaryValues, value_of
from femnn.fields.copies import (
    CoordinateState,
    Mirrors,
    dependencies_of,
    meshes_of,
    owned_values,
    version,
)
from femnn.fields.interpolation import Interpolated
from femnn.parallel import all_ranks, any_rank, raise_network_error
from femnn.variational.levels import enable_levels
from femnn.variational.network import PrivateNetwork
from femnn.variational.problem import NeuralVariationalProblem
from femnn.variational.stamp import Stamp

WRITTEN = (ufl.Form, ufl.core.expr.Expr)
# As Firedrake's solver of linear problems.
ONE_SOLVE = {"snes_type": "ksponly", "ksp_rtol": DEFAULT_KSP_PARAMETERS["ksp_rtol"]}


class State:
    """A problem in private copies, with the networks' values and the matrix at these.

    Whoever needs a value loads what it follows from, and asks for it: :meth:`evaluate` for the
    networks, :meth:`assemble_tangent` for the matrix.  Each is computed unless it was computed
    from the same values.

    Parameters
    ----------
    problem
        The problem.
    options
        Keywords of :class:`firedrake.NonlinearVariationalSolver`.

    Attributes
    ----------
    copies : dict
        The user's Functions and Constants, each with its private copy.
    unknown : firedrake.Function
        The unknown's copy.
    boundary : list of BoundaryValues
        The boundary conditions.
    meshes : list
        The residual's.
    networks : list of PrivateNetwork
        The networks of the unknown.
    residual, tangent : ufl.Form
        The residual and its exact derivative, in private copies.
    implicit, explicit : list of NeuralCoefficient
        The user's coefficients in the forms and the application context that depend on the
        unknown, and those that do not.
    preconditioner : ufl.Form or None
        The user's form for it, in private copies.
    exact : bool
        Whether the matrix is the exact tangent, and not one that the user gave.
    solver : firedrake.NonlinearVariationalSolver
        Firedrake's solver of the problem in private copies.
    """

    def __init__(self, problem: NeuralVariationalProblem, options: Mapping[str, Any]):
        self.problem = problem
        self.options = dict(options)
        self._appctx = dict(self.options.get("appctx") or {})
        in_context = _computed_in(self._appctx.values())
        self.implicit = _merged(
            problem.implicit, (c for c in in_context if c.depends_on(problem.u))
        )
        self.explicit = _merged(problem.explicit, (c for c in in_context if c not in self.implicit))
        self._mirrors = Mirrors(_sources(problem, self.implicit, self.explicit))
        self.copies = self._mirrors.copies
        self.unknown = self.copies[problem.u]
        self.boundary = [BoundaryValues(bc) for bc in problem.bcs]
        self.networks = [PrivateNetwork(c, self._mirrors) for c in self.implicit]
        self._weights = {n.weights: _Counted() for n in self.networks}
        fixed = [copy for copy in self.copies.values() if copy is not self.unknown]
        self._in_operands = [d for d in fixed if any(d in n.depends_on for n in self.networks)]
        self._modules: tuple = ()
        self.meshes = meshes_of(problem.F)
        self._moved = [CoordinateState(mesh) for mesh in self.meshes]
        self.residual = self._privately(problem.F)
        trial = fd.TrialFunction(problem.u.function_space())
        terms = [n.terms for n in self.networks]
        self.tangent = total_derivative(self.residual, self.unknown, trial, terms)
        self.exact = problem.J is None
        self._retired: list[fd.NonlinearVariationalSolver] = []
        self._evaluated: Stamp | None = None
        self._assembled: Stamp | None = None
        self.solver = self._solver()

    def _solver(self) -> fd.NonlinearVariationalSolver:
        """Firedrake's solver; says what the matrix depends on, too."""
        problem, options = self.problem, dict(self.options)
        matrix = self.tangent if self.exact else self._privately(problem.J)
        self.preconditioner = None if problem.Jp is None else self._privately(problem.Jp)
        held = _held_by(form for form in (matrix, self.preconditioner) if form is not None)
        self.constant_tangent = self.unknown not in held and not self.networks
        self._in_matrix = [d for d in held if d is not self.unknown and d in self.copies.values()]
        callbacks: dict[str, Callable[..., None]] = {
            "pre_function_callback": lambda X: self._evaluate_all(),
            "pre_jacobian_callback": lambda X: self._evaluate_all(),
            "post_jacobian_callback": lambda X, J: self._note_matrix(J),
        }
        for name, own in callbacks.items():
            options[name] = _followed_by(own, options.get(name))
        options["appctx"] = self.appctx()
        if problem.is_linear:
            options["solver_parameters"] = {**ONE_SOLVE, **(options.get("solver_parameters") or {})}
        solver = fd.NonlinearVariationalSolver(
            fd.NonlinearVariationalProblem(
                self.residual,
                self.unknown,
                bcs=[b.bc for b in self.boundary],
                J=matrix,
                Jp=self.preconditioner,
                form_compiler_parameters=problem.form_compiler_parameters,
                is_linear=problem.is_linear,
            ),
            **options,
        )
        solver._problem._constant_jacobian = self.constant_tangent
        enable_levels(solver, self.held)
        solver.snes.setConvergenceHistory(reset=True)
        return solver

    def renew_solver(self) -> None:
        """Make Firedrake's solver again, after an error in the midst of PETSc's.

        It leaves vectors locked, and objects that PETSc crashes on when they are destroyed: the old
        solver is kept.
        """
        for network in self.networks:
            network.levels.clear()
        self._retired.append(self.solver)
        self.solver = self._solver()
        self._assembled = None

    @property
    def snes(self) -> Any:
        """PETSc's nonlinear solver."""
        return self.solver.snes

    @property
    def held(self) -> list[Any]:
        """The Functions and Constants in the private forms and operands."""
        networks = [f for n in self.networks for f in (n.terms.value, n.terms.slope)]
        return [*self.copies.values(), *networks]

    @property
    def comm(self) -> Any:
        """The ranks that share the unknown."""
        return self.unknown.comm

    @property
    def dependencies(self) -> list[Any]:
        """What forms and networks depend on, in the tape's sense, and the initial guess."""
        return [*self._weights, *self.copies]

    def present_boundary(self) -> list[Interpolated]:
        """What the user's boundary conditions say now, one for each."""
        return [condition.present() for condition in self.boundary]

    def conditions_of(self, dependency: Any) -> list[BoundaryValues]:
        """The boundary conditions whose values that are loaded depend on something."""
        return [c for c in self.boundary if dependency in c.given.dependencies]

    def appctx(self) -> dict[str, Any]:
        """The user's application context, its forms and expressions written in private copies."""
        return {
            name: self._privately(value)
            if isinstance(value, (ufl.Form, ufl.core.expr.Expr))
            else value
            for name, value in self._appctx.items()
        }

    def load(
        self,
        values: Mapping[Any, Any],
        boundary: Sequence[Interpolated] | None = None,
        iterate: fd.Function | None = None,
    ) -> None:
        """Take values of the dependencies; the user's own where none are given.  Collective.

        Parameters
        ----------
        values
            Dependency to value: Functions, Constants, Weights.
        boundary
            What the boundary conditions' values are; without, what they are now.
        iterate
            The unknown, where it is not the initial guess that ``values`` has.
        """
        unknown = self.problem.u
        self._mirrors.load(values if iterate is None else {**values, unknown: iterate})
        boundary = self.present_boundary() if boundary is None else boundary
        for condition, given in zip(self.boundary, boundary, strict=True):
            condition.load(given, values)
        for weights, known in self._weights.items():
            value = values.get(weights, weights)
            value.check_ranks(self.comm)
            known.take(value.vector)
        self._modules = tuple(n.version() for n in self.networks)

    def weights_of(self, network: PrivateNetwork) -> np.ndarray:
        """The weights that are loaded for a network, shape ``(n_weights,)``."""
        return self._weights[network.weights].vector

    def evaluate(self) -> None:
        """Let the networks have the values at the present state.  Collective.

        What a network raises is kept; :meth:`raise_failures` raises it on all ranks.
        """
        if not self.networks:
            return
        present = Stamp(self._versions_of_networks(), owned_values(self.unknown))
        if self._is_from(self._evaluated, present):
            return
        for network in self.networks:
            network.evaluate(self.weights_of(network))
        self._evaluated = present

    def raise_failures(self) -> None:
        """Raise on every rank what a network has raised on one of them.  Collective."""
        failures = [n.failure for n in self.networks if n.failure is not None]
        if not any_rank(self.comm, bool(failures)):
            return
        for network in self.networks:
            network.failure = None
        self._evaluated = None
        raise_network_error(self.comm, failures[0] if failures else None)

    def assemble_tangent(self) -> None:
        """Let the matrix be the one at the present state.  Collective."""
        self.evaluate()
        if not self.has_matrix():
            context = self.solver._ctx
            context._assemble_jac(context._jac)
            if context.Jp is not None:
                context._assemble_pjac(context._pjac)
            self._set_null_spaces(context)
            self._assembled = self._matrix_stamp()

    def has_matrix(self) -> bool:
        """Whether the matrix is the one at the present state.  Collective."""
        return self._is_from(self._assembled, self._matrix_stamp())

    def _set_null_spaces(self, context: Any) -> None:
        """As Firedrake does where Newton's method asks for the matrix."""
        fields = self.unknown.function_space()._ises
        context.set_nullspace(context._nullspace, fields, transpose=False, near=False)
        context.set_nullspace(context._nullspace_T, fields, transpose=True, near=False)
        context.set_nullspace(context._near_nullspace, fields, transpose=False, near=True)

    def _evaluate_all(self) -> None:
        """Let the networks have their values, on all levels: PETSc does not say on which it is."""
        self.evaluate()
        for network in self.networks:
            network.evaluate_levels()

    def _note_matrix(self, matrix: Any) -> None:
        if matrix.handle == self.solver._ctx._jac.petscmat.handle:  # not a coarser level's
            self._assembled = self._matrix_stamp()

    def _matrix_stamp(self) -> Stamp:
        versions = (*map(version, self._in_matrix), *(moved() for moved in self._moved))
        if self.constant_tangent:
            return Stamp(versions)
        return Stamp((versions, self._versions_of_networks()), owned_values(self.unknown))

    def _versions_of_networks(self) -> tuple:
        """What the networks' values depend on, apart from the unknown."""
        weights = tuple(known.version for known in self._weights.values())
        operands = tuple(version(d) for d in self._in_operands)
        return weights, self._modules, operands, tuple(moved() for moved in self._moved)

    def _is_from(self, stamp: Stamp | None, present: Stamp) -> bool:
        """Whether what has this stamp is what would be computed now.  Collective."""
        return all_ranks(self.comm, stamp == present)

    def _privately(self, form: ufl.Form) -> ufl.Form:
        values = {n.coefficient: n.terms.value for n in self.networks}
        return ufl.replace(form, {**self.copies, **values})


class _Counted:
    """The weights that are loaded for networks, and how often they have changed."""

    def __init__(self) -> None:
        self.vector = np.empty(0)
        self.version = 0

    def take(self, vector: np.ndarray) -> None:
        """Take other weights; the version stays where they are the same."""
        if not np.array_equal(self.vector, vector):
            self.vector, self.version = vector, self.version + 1


def _held_by(forms: Iterable[ufl.Form]) -> list[Any]:
    expanded = [ufl.algorithms.expand_derivatives(form) for form in forms]
    return list(dict.fromkeys(d for form in expanded for d in dependencies_of(form)))


def _followed_by(own: Callable[..., None], other: Callable | None) -> Callable[..., None]:
    """A callback of Firedrake's that calls ours and then the user's."""

    def both(*args: Any) -> None:
        own(*args)
        if other is not None:
            other(*args)

    return both


def _computed_in(values: Iterable[Any]) -> list[NeuralCoefficient]:
    """The coefficients in forms and expressions among the values."""
    return [c for v in values if isinstance(v, WRITTEN) for c in neural_coefficients(v)]


def _merged(first: Iterable[Any], further: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys([*first, *further]))


def _sources(
    problem: NeuralVariationalProblem, implicit: Sequence[Any], explicit: Sequence[Any]
) -> Iterable[Any]:
    """The user's Functions and Constants in the problem's forms and operands."""
    expressions = [*problem.forms, *(c.inputs for c in implicit)]
    found = [d for e in expressions for d in dependencies_of(e) if d not in implicit]
    in_values = {d for bc in problem.bcs for d in dependencies_of(value_of(bc))}
    return dict.fromkeys([problem.u, *found, *(c for c in explicit if c not in in_values)])
