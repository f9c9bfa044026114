"""Equations as Firedrake's ``solve`` takes them."""

from __future__ import annotations

from typing import Any

import firedrake as fd
import ufl
from firedrake.petsc import DEFAULT_KSP_PARAMETERS

from femnn.variational.problem import NeuralVariationalProblem
from femnn.variational.solver import NeuralVariationalSolver


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
    TypeError
        If the equation is neither ``F == 0`` nor ``a == L``.
    firedrake.ConvergenceError
        If the solve fails; ``u`` then keeps its value.
    """
    linear = isinstance(equation.lhs, ufl.Form) and len(equation.lhs.arguments()) == 2
    if linear:
        F = _residual_of_linear(equation.lhs, equation.rhs, u)
    elif equation.rhs == 0:
        F = equation.lhs
    else:
        raise TypeError("solve: write the equation as F == 0, or as a == L with a bilinear a.")
    annotate = {k: kwargs.pop(k) for k in ("annotate",) if k in kwargs}
    problem = NeuralVariationalProblem(
        F,
        u,
        bcs,
        J=J,
        Jp=Jp,
        form_compiler_parameters=form_compiler_parameters,
        is_linear=linear,
    )
    if linear:
        parameters = dict(kwargs.get("solver_parameters") or {})
        kwargs["solver_parameters"] = {
            "snes_type": "ksponly",
            "ksp_rtol": DEFAULT_KSP_PARAMETERS["ksp_rtol"],
            **parameters,
        }
    return NeuralVariationalSolver(problem, **kwargs).solve(**annotate)


def _residual_of_linear(a: ufl.Form, L: Any, u: fd.Function) -> ufl.Form:
    """The residual of a == L; what holds ``u`` already takes its present value, as it must."""
    forms = [form for form in (a, L) if isinstance(form, ufl.Form)]
    if any(u in form.coefficients() for form in forms):
        before = {u: u.copy(deepcopy=True)}
        a, L = (ufl.replace(f, before) if isinstance(f, ufl.Form) else f for f in (a, L))
    return fd.action(a, u) - L
