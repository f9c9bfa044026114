"""Tangent-linear solves in many directions at once, with one factorisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import firedrake as fd
import numpy as np

from femnn.coefficient.chain_rule import constant_derivative, total_derivative
from femnn.evaluation.jacobian import weight_jacobian
from femnn.fields.kept import KeptForms
from femnn.fields.matrices import dense, times_columns
from femnn.parallel import on_all_ranks
from femnn.tape.between import NoColumns
from femnn.tape.counts import count
from femnn.tape.weights import Weights
from femnn.variational.network import PrivateNetwork
from femnn.variational.state import State
from femnn.variational.tangent import TangentSolves


class TangentColumns:
    """Changes of the solution in many directions of what it depends on.

    With F(u, m) = 0 and the tangent A = dF/du they are -A^-1 (dF/dm) M, where the columns of M are
    the directions.  A network of the unknown counts through (dF/dq) (dN/dw).  The matrices dF/dm
    and dF/dq are assembled at each state, their assemblers kept.

    Parameters
    ----------
    state
        The state; what is asked for is at the values that are loaded there.
    solve_tangent
        Solves with one right side.
    """

    def __init__(self, state: State, solve_tangent: TangentSolves):
        self.state = state
        self._solve_tangent = solve_tangent
        self._kept = KeptForms(state.problem.form_compiler_parameters, mat_type="aij")
        self._terms = [n.terms for n in state.networks]
        self._free = np.empty(0)

    def __call__(self, moving: Mapping[Any, np.ndarray], n: int) -> np.ndarray:
        """The solution's changes.  Collective.

        Parameters
        ----------
        moving
            For each dependency that changes a row for each of its numbers that the rank has, and a
            column for each direction.
        n
            Number of directions.

        Returns
        -------
        numpy.ndarray
            Shape ``(n_owned, n)``.

        Raises
        ------
        NoColumns
            If boundary values, bounds or Cofunctions in the residual depend on what changes, or a
            condition is an equation.
        """
        if self.state.equations:
            raise NoColumns
        self._free = self._find_free()
        right_side = np.zeros((len(self._free), n))
        for dependency, matrix in moving.items():
            assembled = dependency in self.state.assembled.copies
            if assembled or self.state.conditions_of(dependency):
                raise NoColumns
            right_side -= self._force(dependency, matrix, n)
        right_side *= self._free[:, None]
        return self._solve(right_side)

    def _find_free(self) -> np.ndarray:
        """One where no boundary condition holds and no bound, zero where one does."""
        free = fd.Function(self.state.unknown.function_space()).assign(1.0)
        for condition in self.state.conditions:
            condition.zero(free)
        with free.dat.vec_ro as vector:
            return vector.array_r.copy()

    def _force(self, dependency: Any, matrix: np.ndarray, n: int) -> np.ndarray:
        """(dF/dm) M for one dependency, on this rank's rows."""
        total = np.zeros((len(self._free), n))
        if isinstance(dependency, Weights):
            for network in self.state.networks:
                if network.weights is dependency:
                    total += self._of_network(network, matrix)
        elif isinstance(dependency, fd.Constant):
            total += self._of_constant(dependency, matrix)
        elif dependency is not self.state.problem.u and dependency in self.state.copies:
            assemble = self._kept(dependency, partial(self._of_field, dependency))
            total += self._product(assemble, matrix)
        return total

    def _of_network(self, network: PrivateNetwork, matrix: np.ndarray) -> np.ndarray:
        """Through the values at a network's points."""
        weights, evaluator = self.state.weights_of(network), network.evaluator
        x, comm = network.points.inputs, self.state.comm
        jacobian = on_all_ranks(comm, weight_jacobian, evaluator, x, weights)
        changes = _times(jacobian.reshape(-1, jacobian.shape[-1]), matrix)
        assemble = self._kept(network, partial(self._of_values, network))
        return self._product(assemble, _placed(changes, network))

    def _of_values(self, network: PrivateNetwork) -> Any:
        value = network.terms.value
        trial = fd.TrialFunction(value.function_space())
        return fd.derivative(self.state.residual, value, trial)

    def _of_field(self, dependency: fd.Function) -> Any:
        copy = self.state.copies[dependency]
        trial = fd.TrialFunction(copy.function_space())
        return total_derivative(self.state.residual, copy, trial, self._terms)

    def _of_constant(self, constant: fd.Constant, matrix: np.ndarray) -> np.ndarray:
        copy, total = self.state.copies[constant], np.zeros((len(self._free), matrix.shape[1]))
        for row, index in enumerate(np.ndindex(constant.ufl_shape)):
            make = partial(constant_derivative, self.state.residual, copy, index, self._terms)
            assemble = self._kept((constant, index), make)
            if assemble is not None:
                with assemble().dat.vec_ro as vector:
                    total += np.outer(vector.array_r, matrix[row])
        return total

    def _product(self, assemble: Callable | None, matrix: np.ndarray) -> np.ndarray:
        """The matrix of a bilinear form, whose trial function changes, with these columns."""
        if assemble is None:
            return np.zeros((len(self._free), matrix.shape[1]))
        return times_columns(assemble().petscmat, matrix)

    def _solve(self, right_side: np.ndarray) -> np.ndarray:
        factors = self._factors()
        if factors is None:
            return self._one_by_one(right_side)
        count("linear", right_side.shape[1])
        b = dense(right_side, self.state.comm)
        x = b.duplicate(copy=False)
        factors.matSolve(b, x)
        return x.getDenseArray().copy()

    def _factors(self) -> Any:
        """The tangent's factorisation, where the solver has one."""
        state, ksp = self.state, self.state.snes.getKSP()
        direct = ksp.getType() == "preonly" and ksp.getPC().getType() in ("lu", "cholesky")
        kernel = any(state.options.get(k) for k in ("nullspace", "transpose_nullspace"))
        if kernel or not (direct and self._solve_tangent.shares_matrix):
            return None
        state.assemble_tangent()
        ksp.setOperators(*state.snes.getJacobian()[:2])
        ksp.getPC().setReusePreconditioner(False)
        with state.solver.inserted_options():
            ksp.setUp()
            return ksp.getPC().getFactorMatrix()

    def _one_by_one(self, right_side: np.ndarray) -> np.ndarray:
        space = self.state.unknown.function_space()
        b, x, result = fd.Cofunction(space.dual()), fd.Function(space), np.empty_like(right_side)
        for column in range(right_side.shape[1]):
            with b.dat.vec_wo as vector:
                vector.array[:] = right_side[:, column]
            self._solve_tangent(b, x, transposed=False)
            with x.dat.vec_ro as vector:
                result[:, column] = vector.array_r
        return result


def _times(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The product; cheap where the right factor places columns, as that of a control does."""
    (columns,) = np.nonzero(right.any(axis=0))
    part = right[:, columns]
    whole = part.shape[0] == part.shape[1] and np.array_equal(part, np.eye(len(part)))
    result = np.zeros((len(left), right.shape[1]))
    result[:, columns] = left if whole else left @ part
    return result


def _placed(changes: np.ndarray, network: PrivateNetwork) -> np.ndarray:
    """Rows of values at points as rows of the degrees of freedom of their space."""
    where = fd.Function(network.terms.value.function_space())
    where.dat.data_wo[...] = 0.0
    n_outputs = network.evaluator.n_outputs
    numbers = 1.0 + np.arange(len(changes)).reshape(-1, n_outputs)
    network.points.at.fill(where, numbers)
    rows = np.rint(where.dat.data_ro).astype(int).ravel() - 1
    placed = np.zeros((len(rows), changes.shape[1]))
    placed[rows >= 0] = changes[rows[rows >= 0]]
    return placed
