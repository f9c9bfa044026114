"""Boundary values of the stages of Irksome's Runge-Kutta methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import firedrake as fd
import numpy as np
import ufl

from femnn.fields.interpolation import Interpolated
from femnn.tape.interpolation import interpolated


def rates_at_stages(bc: fd.DirichletBC, tableau: Any, t: Any, dt: Any) -> list[Any]:
    """The boundary values' derivatives in time at the stages' times."""
    from irksome import Dt, expand_time_derivatives

    if bc._original_arg == 0:
        return [0] * tableau.num_stages
    rate = expand_time_derivatives(Dt(ufl.as_ufl(bc._original_arg)), t=t, timedep_coeffs=())
    return [ufl.replace(rate, {t: t + float(c) * dt}) for c in tableau.c]


class ValuesAtStages:
    """Stage derivatives at a boundary with which the stages have the boundary values.

    With values g_j at the stages' times, sum_j (A^-1)_ij (g_j - u0) / dt.  The tape follows u0,
    and what the values are made of.
    """

    def __init__(
        self,
        bc: fd.DirichletBC,
        tableau: Any,
        t: Any,
        dt: Any,
        start: fd.Function,
        spaces: Sequence[Any],
    ):
        from irksome.bcs import get_sub

        if bc.function_space().component is not None:
            raise NotImplementedError(
                f"TimeStepper: the boundary values on {bc.sub_domain} are those of one component "
                "of a vector: give all its components, or bc_type='ODE'."
            )
        try:
            self._inverse = np.linalg.inv(tableau.A)
        except np.linalg.LinAlgError as error:
            raise NotImplementedError(
                f"TimeStepper: {tableau} has an explicit stage, which cannot be made to have "
                "boundary values: give bc_type='ODE'."
            ) from error
        self._dt, self._start = dt, get_sub(start, bc._indices)
        space, given = self._start.function_space(), ufl.as_ufl(bc._original_arg)
        times = [t + float(c) * dt for c in tableau.c]
        self._at_times = [Interpolated(ufl.replace(given, {t: time}), space) for time in times]
        self.rates = [fd.Function(V) for V in spaces]

    def update(self) -> None:
        """Take the rates of the present time, start and boundary values.  Collective."""
        space = self._start.function_space()
        values = [interpolated(given, space) for given in self._at_times]
        for rate, weights in zip(self.rates, self._inverse, strict=True):
            terms = zip(weights, values, strict=True)
            rate.assign(sum(float(w) / self._dt * (g - self._start) for w, g in terms))
