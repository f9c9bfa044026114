"""Linear solves that are repeated for what they have left over."""

from __future__ import annotations

from collections.abc import Callable

from firedrake.petsc import PETSc

from femnn.fields.matrices import left_over, relative
from femnn.tape.counts import count

# A derivative is no better than its linear solve, whatever Newton's method forgives.
LARGEST_RESIDUAL = 1e-6
# How often what a solve has left over is solved for, at most.
REFINEMENTS = 3
# The same with the factorisation of another matrix, which is near enough where a solve leaves over
# no larger share.  As much more than the share before is rounding.
WITH_FORMER, NEAR, MORE = 5, 1e-3, 10.0

Solve = Callable[[PETSc.Vec, PETSc.Vec], None]


def refined(solve: Solve, ksp: PETSc.KSP, b: PETSc.Vec, x: PETSc.Vec, transposed: bool) -> float:
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


def by_former_factors(
    solve: Solve, ksp: PETSc.KSP, b: PETSc.Vec, x: PETSc.Vec, transposed: bool
) -> float | None:
    """Solve with the factorisation that is there, of a matrix nearby, to rounding.  Collective.

    Newton's method leaves that of the last iterate but one.  Each solve leaves over a share that
    follows from how far apart the matrices are, until rounding is left; so a few solves take the
    place of a factorisation.

    Returns
    -------
    float or None
        The norm of what is left over beside that of ``b``; ``None`` where the matrix is not near,
        and ``x`` is no solution.

    References
    ----------
    N. J. Higham: Accuracy and Stability of Numerical Algorithms (2002), chapter 12.
    """
    matrix, correction = ksp.getOperators()[0], x.duplicate()
    left, first, share = b.copy(), 0.0, 0.0
    ksp.getPC().setReusePreconditioner(True)
    try:
        x.zeroEntries()
        for attempt in range(WITH_FORMER):
            before = left.norm()
            if before == 0.0:
                return 0.0
            solve(left, correction)
            x.axpy(1.0, correction)
            left = left_over(matrix, x, b, transposed)
            share = left.norm() / before
            if attempt == 0:
                first = share
                if not share <= NEAR:
                    return None
            elif share > MORE * first:
                return relative(left, b)
    finally:
        ksp.getPC().setReusePreconditioner(False)
    return None
