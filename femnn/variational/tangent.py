"""Linear solves with the tangent of a variational problem, as it is and transposed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import firedrake as fd
from firedrake import dmhooks
from firedrake.petsc import PETSc

from femnn.variational.state import State

ITERATIVE_TOLERANCE = 1e-8
# A derivative is no better than its linear solve, whatever Newton's method forgives.
LARGEST_RESIDUAL = 1e-6
# PETSC_ERR_SUP, PETSC_ERR_ARG_WRONGSTATE, an error in Python: there is no such operation.
NOT_POSSIBLE = (56, 73, 101)


class TangentSolves:
    """Solves with the exact tangent at a state.

    Uses the matrix and the linear solver of the forward problem.  Solvers of their own are
    made where the forward problem's matrix is not the exact tangent, where its linear
    solver cannot be transposed, or where options for adjoints were given.

    Parameters
    ----------
    state
        The state.
    adjoint_parameters
        Linear solver options for transposed solves; ``None`` for the forward problem's.
    """

    def __init__(self, state: State, adjoint_parameters: Mapping | None):
        self.state = state
        self._adjoint_parameters = adjoint_parameters
        self._shares = {False: state.exact, True: state.exact and adjoint_parameters is None}
        self._own: dict[bool, fd.LinearVariationalSolver] = {}

    def __call__(self, right_side: fd.Cofunction, solution: fd.Function, transposed: bool) -> None:
        """Solve with homogeneous boundary conditions; zeroes their rows of ``right_side``."""
        for boundary in self.state.boundary:
            boundary.bc.zero(right_side)
        if self._shares[transposed]:
            try:
                self._solve_shared(right_side, solution, transposed)
            except PETSc.Error as error:
                if error.ierr not in NOT_POSSIBLE:
                    raise
                self._shares[transposed] = False
        if not self._shares[transposed]:
            self._solve_own(right_side, solution, transposed)

    def _solve_shared(
        self, right_side: fd.Cofunction, solution: fd.Function, transposed: bool
    ) -> None:
        solver, ksp = self.state.solver, self.state.snes.getKSP()
        self.state.assemble_tangent()
        # Newton's method has not, where it took no iteration.
        ksp.setOperators(*self.state.snes.getJacobian()[:2])
        solve = ksp.solveTranspose if transposed else ksp.solve
        rtol, atol, divtol, max_it = ksp.getTolerances()
        ksp.setTolerances(rtol=min(rtol, ITERATIVE_TOLERANCE), atol=0.0)
        ksp.getPC().setReusePreconditioner(False)
        try:
            with (
                solver.inserted_options(),
                dmhooks.add_hooks(solver.snes.getDM(), solver, appctx=solver._ctx),
                right_side.dat.vec_ro as b,
                solution.dat.vec_wo as x,
            ):
                solve(b, x)
                residual = _relative_residual(ksp.getOperators()[0], x, b, transposed)
        finally:
            ksp.setTolerances(rtol, atol, divtol, max_it)
        _check(residual, ksp, "the forward's, transposed" if transposed else "the forward's")

    def _solve_own(
        self, right_side: fd.Cofunction, solution: fd.Function, transposed: bool
    ) -> None:
        self.state.evaluate()
        if transposed not in self._own:
            self._own[transposed] = self._make(right_side, solution, transposed)
        own = self._own[transposed]
        own._problem.F.components()[1].assign(right_side)
        own.solve()
        solution.assign(own._problem.u)
        ksp = own.snes.getKSP()
        with right_side.dat.vec_ro as b, solution.dat.vec_ro as x:
            residual = _relative_residual(ksp.getOperators()[0], x, b, transposed=False)
        _check(residual, ksp, "a solver of its own")

    def _make(
        self, right_side: fd.Cofunction, solution: fd.Function, transposed: bool
    ) -> fd.LinearVariationalSolver:
        state = self.state
        parameters = self._adjoint_parameters if transposed else None
        if parameters is None:
            parameters = _linear_options(state.solver.parameters)
        spaces = [state.options.get(k) for k in ("nullspace", "transpose_nullspace")]
        nullspace, transpose_nullspace = reversed(spaces) if transposed else spaces
        problem = fd.LinearVariationalProblem(
            fd.adjoint(state.tangent) if transposed else state.tangent,
            right_side.copy(deepcopy=True),
            solution.copy(deepcopy=True),
            bcs=[b.bc.reconstruct(g=0) for b in state.boundary],
            form_compiler_parameters=state.problem.form_compiler_parameters,
        )
        return fd.LinearVariationalSolver(
            problem,
            solver_parameters=parameters,
            nullspace=nullspace,
            transpose_nullspace=transpose_nullspace,
            near_nullspace=state.options.get("near_nullspace"),
            appctx=state.options.get("appctx"),
        )


def _check(residual: float, ksp: Any, which: str) -> None:
    reason = ksp.getConvergedReason()
    if reason < 0 or not residual <= LARGEST_RESIDUAL:
        raise fd.ConvergenceError(
            f"the linear solve for a derivative ({which}) reached a relative residual of "
            f"{residual:.1e} after {ksp.getIterationNumber()} iterations (reason {reason}), wanted "
            f"{LARGEST_RESIDUAL}: the derivative would be wrong. Give "
            "adjoint_solver_parameters=... with a solver that suits the transposed matrix, for "
            "example {'ksp_type': 'preonly', 'pc_type': 'lu'}."
        )


def _relative_residual(matrix: Any, x: Any, b: Any, transposed: bool) -> float:
    """The residual's norm over the right side's, without what the null space holds."""
    residual = b.duplicate()
    (matrix.multTranspose if transposed else matrix.mult)(x, residual)
    residual.aypx(-1.0, b)
    kernel = matrix.getNullSpace() if transposed else matrix.getTransposeNullSpace()
    if kernel.handle:
        kernel.remove(residual)
    scale = b.norm()
    return residual.norm() / scale if scale > 0 else 0.0


def _linear_options(options: dict) -> dict:
    """The linear solver's among a nonlinear solver's options, for a solver of its own."""
    if options.get("pc_type") == "python" or options.get("mat_type") == "matfree":
        return {}
    linear = {k: v for k, v in options.items() if not k.startswith("snes_")}
    tolerance = float(linear.get("ksp_rtol", ITERATIVE_TOLERANCE))
    return {**linear, "ksp_rtol": min(tolerance, ITERATIVE_TOLERANCE)}
