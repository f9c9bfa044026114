"""The stages of Irksome's Runge-Kutta methods: their form, solved for together or one by one."""

from __future__ import annotations

from typing import Any

import firedrake as fd
import numpy as np
import ufl
from ufl.algorithms.analysis import extract_type

from femnn.coefficient.changes import changed


def stage_form(
    F: ufl.Form, tableau: Any, t: Any, dt: Any, start: fd.Function, stages: fd.Function
) -> ufl.Form:
    """The form of the stages' derivatives in time.

    Irksome's ``getForm`` does the same to what UFL sees.  A network's operands are at a stage's
    time and state too, so each stage has a coefficient of its own where they change.

    Parameters
    ----------
    F
        The semi-discrete residual.
    tableau
        Irksome's tableau.
    t, dt
        The time at the start of a step, and the step's length.
    start
        The Function with the solution at the start, which stands in ``F``.
    stages
        The stages' derivatives in time, on the space that Irksome makes for them.
    """
    from irksome.constant import vecconst
    from irksome.tools import dot, replace, reshape
    from irksome.ufl.deriv import TimeDerivative

    (test,) = F.arguments()
    F = changed(F, lambda f: _without_derivatives_of_expressions(f, t, start))
    shape = (tableau.num_stages, *start.ufl_shape)
    tests = reshape(fd.TestFunction(stages.function_space()), shape)
    slopes = reshape(stages, shape)
    moves, times = dot(vecconst(tableau.A), slopes), vecconst(tableau.c)
    total = ufl.Form([])
    for i in range(tableau.num_stages):
        at_stage = {
            t: t + times[i] * dt,
            test: tests[i],
            start: start + ufl.as_tensor(moves[i]) * dt,
            TimeDerivative(start): slopes[i],
        }
        total = total + replace(F, at_stage)
    return total


def _without_derivatives_of_expressions(f: Any, t: Any, start: fd.Function) -> Any:
    """With ``Dt`` of the start alone, by the chain rule."""
    from irksome import expand_time_derivatives
    from irksome.ufl.deriv import TimeDerivative

    if not extract_type(f, TimeDerivative):
        return f
    return expand_time_derivatives(f, t=t, timedep_coeffs=(start,))


def one_by_one(tableau: Any) -> list[Any]:
    """A diagonally implicit tableau's stages as tableaux of one stage each."""
    from irksome.tableaux.ButcherTableaux import ButcherTableau

    one = np.ones(1)
    return [
        ButcherTableau(np.array([[tableau.A[i, i]]]), one, None, np.array([c]), 1, None, None)
        for i, c in enumerate(tableau.c)
    ]
