"""pyadjoint's TAOSolver with the installed petsc4py."""

from __future__ import annotations

from petsc4py import PETSc
from pyadjoint.optimization.tao_solver import TAOSolver


def names_of_reasons(solver: TAOSolver) -> dict[int, str]:
    """Why TAO has ended: the name of each number."""
    reasons = PETSc.TAO.ConvergedReason
    return {getattr(reasons, name): name for name in dir(reasons) if not name.startswith("_")}


# pyadjoint 2026.10.0 says why TAO has not converged by names in PETSc.TAO.Reason, which petsc4py
# 3.26 has under ConvergedReason only, so that its TAOConvergenceError became an AttributeError.
# To be reported at https://github.com/dolfin-adjoint/pyadjoint/issues (TAOSolver._tao_reasons).
# petsc4py's class takes no new attribute; this can go when pyadjoint reads ConvergedReason.
if not hasattr(PETSc.TAO, "Reason"):
    TAOSolver._tao_reasons = property(names_of_reasons)
