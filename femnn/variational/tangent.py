"""Linear solves with the tangent of a variational problem, as it is and transposed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import firedrake as fd
from firedrake import dmhooks
from firedrake.petsc import PETSc

if TYPE_CHECKING:
    from femnn.variational.solver import NeuralVariationalSolver

ITERATIVE_TOLERANCE = 1e-8
# A derivative is no better than its linear solve, whatever Newton's method forgives.
LARGEST_RESIDUAL = 1e-6
# PETSC_ERR_SUP, PETSC_ERR_ARG_WRONGSTATE, an error in Python: there is no such operation.
NOT_POSSIBLE = (56, 73, 101)


class TangentSolves:
    """Solves with the exact tangent at the state that a solver is in.

    Uses the matrix and the linear solver of the forward problem.  Solvers of their own are
    made where the forward problem's matrix is not the exact tangent, where its linear
    solver cannot be transposed, or where options for adjoints were given.

    Parameters
    ----------
    solver
        The solver.
    """

    def __init__(self, solver: NeuralVariationalSolver):
        self.solver = solver
        own = solver.adjoint_solver_parameters is not None or solver.problem.J is not None
        self._shares = {False: solver.problem.J is None, True: not own}
        self._own: dict[bool, fd.LinearVariationalSolver] = {}

    def __call__(self, right_side: fd.Cofunction, solution: fd.Function, transposed: bool) -> None:
        """Solve with homogeneous boundary conditions; zeroes their rows of ``right_side``."""
        for boundary in self.solver.boundary:
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
        inner, ksp = self.solver.inner, self.solver.snes.getKSP()
        self.solver.assemble_tangent()
        solve = ksp.solveTranspose if transposed else ksp.solve
        rtol, atol, divtol, max_it = ksp.getTolerances()
        ksp.setTolerances(rtol=min(rtol, ITERATIVE_TOLERANCE), atol=0.0)
        ksp.getPC().setReusePreconditioner(False)
        try:
            with (
                inner.inserted_options(),
                dmhooks.add_hooks(inner.snes.getDM(), inner, appctx=inner._ctx),
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
        solver = self.solver
        parameters = solver.adjoint_solver_parameters if transposed else None
        if parameters is None:
            parameters = _linear_options(solver.inner.parameters)
        spaces = [solver.options.get(k) for k in ("nullspace", "transpose_nullspace")]
        nullspace, transpose_nullspace = reversed(spaces) if transposed else spaces
        problem = fd.LinearVariationalProblem(
            fd.adjoint(solver.tangent) if transposed else solver.tangent,
            right_side.copy(deepcopy=True),
            solution.copy(deepcopy=True),
            bcs=[b.bc.reconstruct(g=0) for b in solver.boundary],
            form_compiler_parameters=solver.problem.form_compiler_parameters,
        )
        return fd.LinearVariationalSolver(
            problem,
            solver_parameters=parameters,
            nullspace=nullspace,
            transpose_nullspace=transpose_nullspace,
            near_nullspace=solver.options.get("near_nullspace"),
            appctx=solver.options.get("appctx"),
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
