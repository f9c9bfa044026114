"""The adjoint of a variational problem with networks inside."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import firedrake as fd
import numpy as np
import ufl

from femnn.coefficient.chain_rule import constant_derivative, total_derivative
from femnn.fields.copies import copy_values
from femnn.fields.cotangents import zero_cotangent
from femnn.fields.kept import KeptForms
from femnn.parallel import sum_over_ranks
from femnn.tape.weights import Weights
from femnn.variational.tangent import TangentSolves

if TYPE_CHECKING:
    from femnn.variational.solver import NeuralVariationalSolver


class Linearisation:
    """Adjoint solves at a solver's state, and from each the gradient for every dependency.

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
        self.solve_tangent = TangentSolves(solver)
        self.kept = KeptForms(solver.problem.form_compiler_parameters)
        self.networks = [n.terms for n in solver.networks]
        space = solver.unknown.function_space()
        self.adjoint_state = fd.Function(space)
        self._right_side = fd.Cofunction(space.dual())
        self._incoming = fd.Cofunction(space.dual())
        (test,) = solver.residual.arguments()
        self.weighted = ufl.replace(-solver.residual, {test: self.adjoint_state})
        self._boundary_residual: fd.Cofunction | None = None

    def solve(self, incoming: fd.Cofunction) -> fd.Function:
        """Solve the adjoint equation for dJ/du; returns a copy of the adjoint state."""
        self._boundary_residual = None
        copy_values(incoming, self._incoming)
        copy_values(incoming, self._right_side)
        self.solve_tangent(self._right_side, self.adjoint_state, transposed=True)
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
        cotangent = zero_cotangent(dependency.function_space())
        assemble = self.kept(dependency, partial(self.field_form, dependency))
        return cotangent if assemble is None else assemble(tensor=cotangent)

    def field_form(self, dependency: fd.Function) -> ufl.Form:
        """-(dF/dm)^T lambda as a form, for a Function or the unknown."""
        copy = self.solver.private(dependency)
        test = fd.TestFunction(copy.function_space())
        return total_derivative(self.weighted, copy, test, self.networks)

    def cotangent_form(self, value: fd.Function) -> ufl.Form:
        """-(dF/dq)^T lambda as a form, for a network's values q."""
        return fd.derivative(self.weighted, value, fd.TestFunction(value.function_space()))

    def _weight_gradient(self, weights: Weights) -> Weights:
        total = np.zeros(len(weights))
        for network in self.solver.networks:
            if network.coefficient.weights is not weights:
                continue
            value = network.terms.value
            assemble = self.kept(value, partial(self.cotangent_form, value))
            if assemble is not None:
                vector = self.solver.weights_of(network)
                cotangent = network.points.at.rows(assemble())
                total += network.evaluator.weight_vjp(network.points.inputs, cotangent, vector)
        return Weights(vector=sum_over_ranks(self.solver.unknown.comm, total))

    def _boundary_gradient(self, bc: fd.DirichletBC) -> list[fd.DirichletBC]:
        """A condition that carries the gradient, as pyadjoint's block for conditions wants it."""
        if self._boundary_residual is None:
            unknown = self.solver.problem.u
            assemble = self.kept(unknown, partial(self.field_form, unknown))
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
        for index in np.ndindex(constant.ufl_shape):
            make_form = partial(constant_derivative, self.weighted, copy, index, self.networks)
            assemble = self.kept((constant, index), make_form)
            gradient[index] = 0.0 if assemble is None else assemble()
        return gradient


def _part_in(values: fd.Function, space: Any) -> fd.Function:
    """The part of ``values`` in a subspace, as a Function that shares its data."""
    if space.index is not None:
        return values.sub(space.index)
    if space.component is not None:
        return _part_in(values, space.parent).sub(space.component)
    return values
