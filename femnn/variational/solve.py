"""Equations as Firedrake's ``solve`` takes them."""

from __future__ import annotations

from typing import Any

import firedrake as fd
import ufl
from firedrake.petsc import DEFAULT_KSP_PARAMETERS

from femnn.variational.problem import NeuralVariationalProblem
from femnn.variational.solver import NeuralVariationalSolver

ONE_SOLVE = {"snes_type": "ksponly", "ksp_rtol": DEFAULT_KSP_PARAMETERS["ksp_rtol"]}


def solve(
    equation: Any,
    u: fd.Function,
    bcs: Any = None,
    J: ufl.Form | None = None,
    Jp: ufl.Form | None = None,
    form_compiler_parameters: dict | None = None,
    **kwargs: Any,
) -> fd.Function:
    """Firedrake's ``solve`` for problems with neural coefficients.  Collective.

    Parameters
    ----------
    equation
        ``F == 0``, or ``a == L`` where the coefficients do not depend on the unknown.
    u
        The unknown; its value is the initial guess.
    bcs, J, Jp, form_compiler_parameters
        As for :class:`NeuralVariationalProblem`.
    **kwargs
        As for :class:`NeuralVariationalSolver`: ``solver_parameters``, ``nullspace``, ...

    Returns
    -------
    firedrake.Function
        ``u``.

    Raises
    ------
    firedrake.ConvergenceError
        If the solve fails; ``u`` then keeps its value.
    """
    F, linear = _residual(equation, u)
    annotate = {k: kwargs.pop(k) for k in ("annotate",) if k in kwargs}
    if linear:
        kwargs["solver_parameters"] = {**ONE_SOLVE, **(kwargs.get("solver_parameters") or {})}
    parameters = {"form_compiler_parameters": form_compiler_parameters}
    problem = NeuralVariationalProblem(F, u, bcs, J=J, Jp=Jp, **parameters, is_linear=linear)
    return NeuralVariationalSolver(problem, **kwargs).solve(**annotate)


def _residual(equation: Any, u: fd.Function) -> tuple[ufl.Form, bool]:
    """The residual form of an equation, and whether it was given as a == L."""
    if isinstance(equation.lhs, ufl.Form) and len(equation.lhs.arguments()) == 2:
        return _residual_of_linear(equation.lhs, equation.rhs, u), True
    if equation.rhs != 0:
        raise TypeError("solve: write the equation as F == 0, or as a == L with a bilinear a.")
    return equation.lhs, False


def _residual_of_linear(a: ufl.Form, L: Any, u: fd.Function) -> ufl.Form:
    """The residual of a == L; what holds ``u`` already takes its present value, as it must."""
    forms = [form for form in (a, L) if isinstance(form, ufl.Form)]
    if any(u in form.coefficients() for form in forms):
        before = {u: u.copy(deepcopy=True)}
        a, L = (ufl.replace(f, before) if isinstance(f, ufl.Form) else f for f in (a, L))
    return fd.action(a, u) - L
