"""Expressions projected to a space that has no interpolation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import firedrake as fd
import numpy as np
from firedrake.assemble import get_assembler
from ufl.algorithms import extract_arguments

from femnn.fields.derivatives import derivative
from femnn.fields.interpolation import Interpolated
from femnn.fields.matrices import dense, times_columns
from femnn.fields.stamp import Stamp, Validity

DIRECT = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}


class Projected(Interpolated):
    """An expression's L2 projection to a space, and what carries changes and cotangents.

    That is what Firedrake takes for the values of a condition where an element has no
    interpolation, such as Hsieh, Clough and Tocher's.  The mass matrix is symmetric, so that what
    follows from the values goes back through the same solve.

    Parameters
    ----------
    expression, space
        As for :class:`Interpolated`.
    """

    def __init__(self, expression: Any, space: Any):
        super().__init__(expression, space)
        self._factorised = Validity(self.comm)
        self._known_solver: Any = None

    def change_columns(self, dependency: Any, columns: np.ndarray) -> np.ndarray | None:
        """The values' changes along many changes of a Function; see :class:`Interpolated`."""
        if self._is_field:
            return columns
        copy = self.mirrors.copies[dependency]
        change = derivative(self._private, copy, fd.TrialFunction(copy.function_space()))
        if not extract_arguments(change):
            return None
        form = fd.inner(change, fd.TestFunction(self.space)) * fd.dx
        right = dense(times_columns(fd.assemble(form).petscmat, columns), self.comm)
        solution = right.duplicate(copy=False)
        self._solver().ksp.getPC().getFactorMatrix().matSolve(right, solution)
        return solution.getDenseArray().copy()

    def _evaluation(self, expression: Any) -> Callable[[], fd.Function]:
        target, right = fd.Function(self.space), fd.Cofunction(self.space.dual())
        form = fd.inner(expression, fd.TestFunction(self.space)) * fd.dx
        assemble = get_assembler(form).assemble

        def evaluate() -> fd.Function:
            assemble(tensor=right)
            self._solver().solve(target, right)
            return target

        return evaluate

    def _transposed(self, change: Any) -> Callable[[fd.Cofunction], fd.Cofunction]:
        (test,) = extract_arguments(change)
        given, solved = fd.Cofunction(self.space.dual()), fd.Function(self.space)
        result = fd.Cofunction(test.function_space().dual())
        assemble = get_assembler(fd.inner(change, solved) * fd.dx).assemble

        def carry(cotangent: fd.Cofunction) -> fd.Cofunction:
            given.dat.data_wo[...] = cotangent.dat.data_ro
            self._solver().solve(solved, given)
            assemble(tensor=result)
            return result

        return carry

    def _check(self, *term: Any) -> None:
        """Nothing: a projection's transpose is exact, also for values that jump."""

    def _solver(self) -> Any:
        """The mass matrix, factorised on the mesh as it is now.  Collective."""
        present = Stamp(tuple(moved() for moved in self._moved))
        if not self._factorised.holds(present):
            form = fd.inner(fd.TrialFunction(self.space), fd.TestFunction(self.space)) * fd.dx
            matrix = fd.assemble(form, mat_type="aij")
            self._known_solver = fd.LinearSolver(matrix, solver_parameters=DIRECT)
            self._known_solver.ksp.setUp()
            self._factorised.note(present)
        return self._known_solver
