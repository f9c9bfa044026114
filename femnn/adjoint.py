"""The adjoint of a variational problem with networks inside."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import firedrake as fd
import numpy as np
import ufl
from firedrake import dmhooks
from firedrake.assemble import get_assembler
from firedrake.petsc import PETSc

from femnn.cotangents import zero_cotangent
from femnn.forms import constant_derivative, total_derivative
from femnn.parallel import sum_over_ranks
from femnn.quadrature import rows
from femnn.weights import Weights

if TYPE_CHECKING:
    from femnn.solving import NeuralVariationalSolver

ITERATIVE_TOLERANCE = 1e-8
UNSUPPORTED = 56  # PETSC_ERR_SUP


class Linearisation:
    """One adjoint solve, and from it the gradient with respect to every dependency.

    With F(u, m) = 0 and the adjoint state from (dF/du)^T lambda = dJ/du, the gradient is
    dJ/dm = -(dF/dm)^T lambda, where networks of the unknown count through dF/dq dN/dm.
    Forms and their assemblers are made once and kept.

    Parameters
    ----------
    solver
        The solver, which holds the state that is linearised.
    """

    def __init__(self, solver: NeuralVariationalSolver):
        self.solver = solver
        space = solver.unknown.function_space()
        self.adjoint_state = fd.Function(space)
        self._right_side = fd.Cofunction(space.dual())
        self._incoming = fd.Cofunction(space.dual())
        (test,) = solver.residual.arguments()
        self._weighted = ufl.replace(-solver.residual, {test: self.adjoint_state})
        self._assemblers: dict[Any, Callable[..., Any] | None] = {}
        self._explicit: fd.LinearVariationalSolver | None = None
        needs_own = solver.adjoint_solver_parameters is not None or solver.problem.J is not None
        self._transposed = not needs_own
        self._boundary_residual: fd.Cofunction | None = None

    def solve(self, incoming: fd.Cofunction) -> fd.Function:
        """Solve the adjoint equation for dJ/du; returns a copy of the adjoint state."""
        self._boundary_residual = None
        self._incoming.assign(incoming)
        self._right_side.assign(incoming)
        for boundary in self.solver.boundary:
            boundary.bc.zero(self._right_side)
        if self._transposed:
            try:
                self._solve_transposed()
            except PETSc.Error as error:
                if error.ierr != UNSUPPORTED:
                    raise
                self._transposed = False
        if not self._transposed:
            self._solve_explicitly()
        return self.adjoint_state.copy(deepcopy=True)

    def gradient(self, dependency: Any) -> Any:
        """The gradient with respect to one dependency, in the type that the tape wants."""
        solver = self.solver
        if dependency is solver.problem.u:
            return None
        if isinstance(dependency, Weights):
            return self._weight_gradient(dependency)
        if isinstance(dependency, fd.DirichletBC):
            return self._boundary_gradient(dependency)
        if isinstance(dependency, fd.Constant):
            return self._constant_gradient(dependency)
        assemble = self._kept(dependency, self._field_form(dependency))
        cotangent = zero_cotangent(dependency.function_space())
        return cotangent if assemble is None else assemble(tensor=cotangent)

    def _solve_transposed(self) -> None:
        inner, ksp = self.solver.inner, self.solver.snes.getKSP()
        self.solver.assemble_tangent()
        rtol, atol, divtol, max_it = ksp.getTolerances()
        ksp.setTolerances(rtol=min(rtol, ITERATIVE_TOLERANCE))
        try:
            with (
                inner.inserted_options(),
                dmhooks.add_hooks(inner.snes.getDM(), inner, appctx=inner._ctx),
                self._right_side.dat.vec_ro as b,
                self.adjoint_state.dat.vec_wo as x,
            ):
                ksp.solveTranspose(b, x)
        finally:
            ksp.setTolerances(rtol, atol, divtol, max_it)
        reason = ksp.getConvergedReason()
        if reason < 0:
            raise fd.ConvergenceError(
                f"the adjoint's linear solve (the forward's, transposed) failed after "
                f"{ksp.getIterationNumber()} iterations with reason {reason}: give "
                "adjoint_solver_parameters=... with a solver that suits the transposed matrix, "
                "for example {'ksp_type': 'preonly', 'pc_type': 'lu'}."
            )

    def _solve_explicitly(self) -> None:
        if self._explicit is None:
            solver = self.solver
            parameters = solver.adjoint_solver_parameters
            if parameters is None:
                parameters = _linear_options(solver.inner.parameters)
            problem = fd.LinearVariationalProblem(
                fd.adjoint(solver.tangent),
                self._right_side,
                self.adjoint_state,
                bcs=[b.bc.reconstruct(g=0) for b in solver.boundary],
            )
            self._explicit = fd.LinearVariationalSolver(problem, solver_parameters=parameters)
        self._explicit.solve()

    def _weight_gradient(self, weights: Weights) -> Weights:
        total = np.zeros(len(weights))
        for network in self.solver.networks:
            if network.coefficient.weights is not weights:
                continue
            value = network.terms.value
            test = fd.TestFunction(value.function_space())
            assemble = self._kept(network, partial(fd.derivative, self._weighted, value, test))
            if assemble is not None:
                vector = self.solver.weights_of(network)
                cotangent = rows(assemble())
                total += network.evaluator.weight_vjp(network.points.inputs, cotangent, vector)
        return Weights(vector=sum_over_ranks(self.solver.unknown.comm, total))

    def _boundary_gradient(self, bc: fd.DirichletBC) -> list[fd.DirichletBC]:
        """A condition that carries the gradient, as pyadjoint's block for conditions wants it."""
        if self._boundary_residual is None:
            assemble = self._kept(self.solver.unknown, self._field_form(self.solver.problem.u))
            residual = fd.Cofunction(self._incoming.function_space())
            residual.assign(self._incoming if assemble is None else self._incoming + assemble())
            self._boundary_residual = residual
        values = self._boundary_residual.riesz_representation("l2")
        sources = [b.source for b in self.solver.boundary]
        for later in self.solver.boundary[sources.index(bc) + 1 :]:
            later.bc.zero(values)  # where conditions overlap, the last one sets the value
        return [bc.reconstruct(g=_part_in(values, bc.function_space()))]

    def _constant_gradient(self, constant: fd.Constant) -> np.ndarray:
        gradient = np.zeros(constant.ufl_shape)
        copy = self.solver.private(constant)
        networks = [n.terms for n in self.solver.networks]
        for index in np.ndindex(constant.ufl_shape):
            make_form = partial(constant_derivative, self._weighted, copy, index, networks)
            assemble = self._kept((constant, index), make_form)
            gradient[index] = 0.0 if assemble is None else assemble()
        return gradient

    def _field_form(self, dependency: fd.Function) -> Callable[[], ufl.Form]:
        networks = [n.terms for n in self.solver.networks]
        copy = self.solver.private(dependency)
        test = fd.TestFunction(copy.function_space())
        return partial(total_derivative, self._weighted, copy, test, networks)

    def _kept(self, key: Any, make_form: Callable[[], ufl.Form]) -> Callable[..., Any] | None:
        """An assembler of a form, made at the first call; ``None`` where the form is zero."""
        if key not in self._assemblers:
            form = ufl.algorithms.expand_derivatives(make_form())
            if isinstance(form, ufl.Form) and not form.empty():
                parameters = self.solver.problem.form_compiler_parameters
                assembler = get_assembler(form, form_compiler_parameters=parameters)
                self._assemblers[key] = assembler.assemble
            else:
                self._assemblers[key] = None
        return self._assemblers[key]


def _part_in(values: fd.Function, space: Any) -> fd.Function:
    """The part of ``values`` in a subspace, as a Function that shares its data."""
    if space.index is not None:
        return values.sub(space.index)
    if space.component is not None:
        return _part_in(values, space.parent).sub(space.component)
    return values


def _linear_options(options: dict) -> dict:
    """The linear solver's among a nonlinear solver's options, for a solver of its own."""
    linear = {k: v for k, v in options.items() if not k.startswith("snes_")}
    tolerance = float(linear.get("ksp_rtol", ITERATIVE_TOLERANCE))
    return {**linear, "ksp_rtol": min(tolerance, ITERATIVE_TOLERANCE)}
