"""Boundary values of the stages of Irksome's Runge-Kutta methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from pyadjoint.tape import stop_annotating

from femnn.fields.boundary import BoundaryValues
from femnn.parallel import all_ranks


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
    and values that are a Function or a Constant; those of expressions are kept as they were.
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
        self._dt, self._given = dt, bc._original_arg
        self._start = get_sub(start, bc._indices)
        times = [t + float(c) * dt for c in tableau.c]
        at_times = [ufl.replace(ufl.as_ufl(self._given), {t: time}) for time in times]
        self._sources = [BoundaryValues(bc.reconstruct(g=g)) for g in at_times]
        self._on_tape = self._given is not t and self._sources[0].on_tape
        self._kept: list[Any] = [None] * len(times)
        self.rates = [fd.Function(V) for V in spaces]

    def update(self) -> None:
        """Take the rates of the present time, start and boundary values.  Collective."""
        values = [self._value(j) for j in range(len(self.rates))]
        for rate, weights in zip(self.rates, self._inverse, strict=True):
            terms = zip(weights, values, strict=True)
            rate.assign(sum(float(w) / self._dt * (g - self._start) for w, g in terms))

    def _value(self, j: int) -> fd.Function:
        if self._on_tape:
            value = fd.Function(self._start.function_space())
            return value.assign(self._given)
        with stop_annotating():
            self._sources[j].load(None, None)
            present, known = self._sources[j].value, self._kept[j]
            same = known is not None and np.array_equal(known.dat.data_ro, present.dat.data_ro)
            if not all_ranks(present.comm, same):  # a new one: the tape holds the last
                self._kept[j] = present.copy(deepcopy=True)
        return self._kept[j]
