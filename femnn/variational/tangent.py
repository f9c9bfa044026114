"""Linear solves with the tangent of a variational problem, as it is and transposed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import firedrake as fd
import numpy as np
from firedrake import dmhooks
from firedrake.petsc import PETSc

from femnn.fields.matrices import left_over, relative
from femnn.tape.counts import count
from femnn.variational.levels import enable_levels
from femnn.variational.linear import take_known
from femnn.variational.state import State
from femnn.variational.tangent_matrix import TangentMatrix, check_rows

ITERATIVE_TOLERANCE = 1e-8
# A transposed solve may take more iterations than others, but not without end: after so many and
# ten times the longest of this solver it is taken for one that does not converge.
MOST_ITERATIONS = 1000
# A derivative is no better than its linear solve, whatever Newton's method forgives.
LARGEST_RESIDUAL = 1e-6
# How often what a solve has left over is solved for, at most.
REFINEMENTS = 3
# The operation is not supported, not possible in this state, fails in a library, or in Python.
NOT_POSSIBLE = (56, 73, 76, 101)
# The others do without the linear solver that the options name, or give it a part of the matrix.
NEWTON = ("newtonls", "newtontr", "newtontrdc", "ksponly")
# What cannot be applied transposed; an attempt leaves PETSc's objects unusable, so that PETSc may
# crash when it destroys them.  SOR can for matrices only that are known to be symmetric.
NO_TRANSPOSE = ("HybridizationPC", "SCPC", "PCDPC", "chebyshev", "sor", "eisenstat")
MULTIGRID = ("P1PC", "PMGPC", "GTMGPC", "mg")
NOT_LINEAR = ("snes_", "fas_", "pfas_", "npc_")


class TangentSolves:
    """Solves with the exact tangent at a state.

    Uses the matrix and the linear solver of the forward problem.  Solvers of their own are
    made where the forward problem's matrix is not the exact tangent or not of all unknowns, where
    its linear solver cannot be transposed or does not converge then, or where options for adjoints
    were given: of the transposed form, with the options for adjoints or the forward problem's, and
    where these do not lead to a solution with Firedrake's default ones, with a warning.  Where
    bounds hold some unknowns, they are made again whenever these are others; where conditions are
    equations, they are of the matrix, see :class:`TangentMatrix`.

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
        shares = state.exact and state.snes.getType() in NEWTON and not state.restriction
        turns = adjoint_parameters is None and _has_transpose(state)
        self._shares = {False: shares, True: shares and turns}
        self._own: dict[bool, fd.LinearVariationalSolver] = {}
        self._held: dict[bool, int | None] = {}  # what bounds held when they were made
        self._longest = 0  # iterations of a solve that converged
        self._matrix: TangentMatrix | None = None
        self._rows_are_right = not state.equations

    @property
    def shares_matrix(self) -> bool:
        """Whether solves, not transposed, use the forward problem's matrix."""
        return self._shares[False]

    def __call__(self, right_side: fd.Cofunction, solution: fd.Function, transposed: bool) -> None:
        """Solve with homogeneous boundary conditions; zeroes their rows of ``right_side``."""
        count("linear")
        for condition in self.state.conditions:
            condition.zero(right_side)
        if self.state.equations:
            self._check_rows()
        if self._shares[transposed]:
            try:
                if not take_known(self.state, right_side, solution, transposed):
                    self._solve_shared(right_side, solution, transposed)
                self._clear(solution)
                return
            except PETSc.Error as error:
                if error.ierr not in NOT_POSSIBLE:
                    raise
                self._shares[transposed] = False
                self.state.renew_solver()
            except fd.ConvergenceError:
                self._shares[transposed] = False
        self.state.evaluate()
        if self.state.equations:
            self._solve_matrix(right_side, solution, transposed)
            self._clear(solution)
            return
        held = self.state.bounds.version if self.state.bounds.given else None
        if transposed in self._own and self._held.get(transposed) == held:
            self._solve_own(right_side, solution, transposed)
        else:
            self._solve_anew(right_side, solution, transposed)
            self._held[transposed] = held

    def _check_rows(self) -> None:
        """See once whether the forward problem's matrix, where it is used, is the tangent."""
        if self._shares[False] and not self._rows_are_right:
            self.state.assemble_tangent()
            check_rows(self.state, self.state.snes.getJacobian()[0])
            self._rows_are_right = True

    def _clear(self, solution: fd.Function) -> None:
        """Rows of Dirichlet conditions count for nothing; equations' columns reach them."""
        if self.state.equations:
            for condition in self.state.conditions:
                condition.zero(solution)

    def _solve_matrix(
        self, right_side: fd.Cofunction, solution: fd.Function, transposed: bool
    ) -> None:
        """Solve with a matrix of its own that has the equations' rows."""
        if self._matrix is None:
            if self._adjoint_parameters is None and self.state.exact:
                _warn(self.state, "it has no transpose, or does not converge transposed")
            self._matrix = TangentMatrix(self.state, self._adjoint_parameters or {})
        matrix = self._matrix.solve(right_side, solution, transposed)
        if not self._rows_are_right:
            check_rows(self.state, matrix)
            self._rows_are_right = True
        with right_side.dat.vec_ro as b, solution.dat.vec_ro as x:
            residual = relative(left_over(matrix, x, b, transposed), b)
        _check(residual, self._matrix.ksp, "a solver of its own")

    def _solve_shared(
        self, right_side: fd.Cofunction, solution: fd.Function, transposed: bool
    ) -> None:
        solver, ksp = self.state.solver, self.state.snes.getKSP()
        self.state.assemble_tangent()
        # Newton's method has not, where it took no iteration.
        ksp.setOperators(*self.state.snes.getJacobian()[:2])
        solve = ksp.solveTranspose if transposed else ksp.solve
        rtol, atol, divtol, max_it = ksp.getTolerances()
        ksp.setTolerances(
            rtol=min(rtol, ITERATIVE_TOLERANCE),
            atol=0.0,
            max_it=min(max_it, self._most(ksp)) if transposed else max_it,
        )
        ksp.getPC().setReusePreconditioner(False)
        try:
            with (
                solver.inserted_options(),
                dmhooks.add_hooks(solver.snes.getDM(), solver, appctx=solver._ctx),
                right_side.dat.vec_ro as given,
                solution.dat.vec_wo as found,
            ):
                b, x = given.copy(), found.duplicate()  # an error would leave them locked
                residual = _refined(solve, ksp, b, x, transposed)
                x.copy(found)
        finally:
            ksp.setTolerances(rtol, atol, divtol, max_it)
        _check(residual, ksp, "the forward's, transposed" if transposed else "the forward's")

    def _most(self, ksp: Any) -> int:
        """How many iterations a transposed solve gets, before one with a solver of its own."""
        if ksp.getConvergedReason() > 0:
            self._longest = max(self._longest, ksp.getIterationNumber())
        return MOST_ITERATIONS + 10 * self._longest

    def _solve_anew(
        self, right_side: fd.Cofunction, solution: fd.Function, transposed: bool
    ) -> None:
        """Solve with a solver of its own that is made now, of options that lead to a solution."""
        given = self._adjoint_parameters if transposed else None
        if given is not None:
            self._own[transposed] = self._solver(right_side, solution, transposed, given)
            self._solve_own(right_side, solution, transposed)
            return
        options = _linear_options(self.state.solver.parameters)
        try:
            self._own[transposed] = self._solver(right_side, solution, transposed, options)
            self._solve_own(right_side, solution, transposed)
        except (PETSc.Error, fd.ConvergenceError, NotImplementedError, ValueError) as error:
            reason = (str(error.__cause__ or error).strip().splitlines() or ["no reason given"])[0]
            _warn(self.state, reason)
            self._own[transposed] = self._solver(right_side, solution, transposed, {})
            self._solve_own(right_side, solution, transposed)

    def _solve_own(
        self, right_side: fd.Cofunction, solution: fd.Function, transposed: bool
    ) -> None:
        own = self._own[transposed]
        ksp, which = own.snes.getKSP(), "a solver of its own"

        def solve(b: PETSc.Vec, x: PETSc.Vec) -> None:
            with own._problem.F.components()[1].dat.vec_wo as given:
                b.copy(given)
            own._problem.u.zero()  # nothing of an attempt that has failed
            own.solve()
            with own._problem.u.dat.vec_ro as found:
                found.copy(x)

        try:
            with right_side.dat.vec_ro as given, solution.dat.vec_wo as found:
                b, x = given.copy(), found.duplicate()
                residual = _refined(solve, ksp, b, x, transposed=False)
                x.copy(found)
        except fd.ConvergenceError as error:
            raise _failed(np.nan, ksp, which) from error
        except PETSc.Error as error:
            inside: BaseException = error
            while inside.__cause__ is not None:
                inside = inside.__cause__
            if isinstance(inside, NotImplementedError):
                raise inside from None
            raise
        _check(residual, ksp, which)

    def _solver(
        self,
        right_side: fd.Cofunction,
        solution: fd.Function,
        transposed: bool,
        parameters: Mapping,
    ) -> fd.LinearVariationalSolver:
        state = self.state
        turned = fd.adjoint if transposed else lambda form: form
        spaces = [state.options.get(k) for k in ("nullspace", "transpose_nullspace")]
        nullspace, transpose_nullspace = reversed(spaces) if transposed else spaces
        problem = fd.LinearVariationalProblem(
            turned(state.tangent),
            right_side.copy(deepcopy=True),
            fd.Function(solution.function_space()),
            bcs=[bc for condition in state.conditions for bc in condition.homogeneous()],
            aP=None if state.preconditioner is None else turned(state.preconditioner),
            form_compiler_parameters=state.problem.form_compiler_parameters,
        )
        solver = fd.LinearVariationalSolver(
            problem,
            solver_parameters=parameters,
            nullspace=nullspace,
            transpose_nullspace=transpose_nullspace,
            near_nullspace=state.options.get("near_nullspace"),
            appctx=state.appctx(),
        )
        enable_levels(solver, state.held)
        return solver


def _warn(state: State, reason: str) -> None:
    warnings.warn(
        "the linear solver of the forward problem, of the kind "
        f"{_kind(state.solver.parameters)}, cannot solve for a derivative ({reason}): "
        "Firedrake's default solver is used instead, a direct LU factorisation (with Real "
        "spaces a Schur complement). Give adjoint_solver_parameters=... with a solver that "
        "suits the transposed problem.",
        stacklevel=3,
    )


def _check(residual: float, ksp: Any, which: str) -> None:
    if ksp.getConvergedReason() < 0 or not residual <= LARGEST_RESIDUAL:
        raise _failed(residual, ksp, which)


def _failed(residual: float, ksp: Any, which: str) -> fd.ConvergenceError:
    return fd.ConvergenceError(
        f"the linear solve for a derivative ({which}) reached a relative residual of "
        f"{residual:.1e} after {ksp.getIterationNumber()} iterations (reason "
        f"{ksp.getConvergedReason()}), wanted {LARGEST_RESIDUAL}: the derivative would be wrong. "
        "Give adjoint_solver_parameters=... with a solver that suits the transposed matrix, for "
        "example {'ksp_type': 'preonly', 'pc_type': 'lu'}."
    )


def _refined(
    solve: Callable[[PETSc.Vec, PETSc.Vec], None],
    ksp: PETSc.KSP,
    b: PETSc.Vec,
    x: PETSc.Vec,
    transposed: bool,
) -> float:
    """Solve, and again for what is left over while that is too much; its norm over that of ``b``.

    Krylov methods stop by the preconditioned residual, which may be small where this one is not.
    """
    solve(b, x)
    matrix, correction = ksp.getOperators()[0], x.duplicate()
    left, tolerance = left_over(matrix, x, b, transposed), ksp.getTolerances()[0]
    try:
        for attempt in range(REFINEMENTS):
            residual = relative(left, b)
            converged = ksp.getConvergedReason() == PETSc.KSP.ConvergedReason.CONVERGED_RTOL
            if not converged or residual <= LARGEST_RESIDUAL:
                break
            count("linear")
            enough = 0.1 * LARGEST_RESIDUAL / residual if attempt == 0 else 0.0
            ksp.setTolerances(rtol=max(tolerance, enough))
            correction.zeroEntries()
            solve(left, correction)
            x.axpy(1.0, correction)
            left = left_over(matrix, x, b, transposed)
    finally:
        ksp.setTolerances(rtol=tolerance)
    return relative(left, b)


def _linear_options(options: dict) -> dict:
    """The linear solver's among a nonlinear solver's options, for a solver of its own."""
    linear = {k: v for k, v in options.items() if not k.startswith(NOT_LINEAR)}
    tolerance = float(linear.get("ksp_rtol", ITERATIVE_TOLERANCE))
    return {**linear, "ksp_rtol": min(tolerance, ITERATIVE_TOLERANCE)}


def _has_transpose(state: State) -> bool:
    """Whether nothing among a linear solver's options is known to have no transpose."""
    options = state.solver.parameters
    if state.equations and options.get("mat_type") == "matfree":
        return False
    kinds = [str(v).split(".")[-1] for v in options.values()]
    smoothers = [v for k, v in options.items() if "levels" in k and k.endswith("ksp_type")]
    if any(kind in MULTIGRID for kind in kinds) and not smoothers:
        return False  # its default smoother is Chebyshev's
    return not any(kind in NO_TRANSPOSE for kind in kinds)


def _kind(options: dict) -> str:
    names = ("mat_type", "ksp_type", "pc_type", "pc_python_type")
    return ", ".join(f"{name}={options[name]}" for name in names if name in options)
