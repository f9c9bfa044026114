"""Lengths of steps in time by their error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import firedrake as fd
import numpy as np
from pyadjoint.tape import annotate_tape, get_working_tape, no_annotations, stop_annotating

from femnn.fields.copies import copy_values, owned_values
from femnn.parallel import from_rank_zero, sum_over_ranks


class AdaptiveSteps:
    """Steps in time of lengths that keep the local error at a tolerance.

    A step is tried as one of its whole length and as two of half of it; the difference is the
    error's estimate (step doubling), and the two halves are the step.  The tape records the
    accepted halves alone, each with its own length and time, and replays the same at other
    controls: derivatives are the exact ones of the recorded scheme, with the lengths held fixed.

    Parameters
    ----------
    step
        Called without arguments: takes ``states`` from the time in ``time`` over the length in
        ``dt``, by any method of one step.  What else it needs, such as the last time level, it
        makes from ``states``.  It may advance ``time`` or leave it.
    states
        The Functions that hold the solution before and after a step.
    dt, time
        The Constants with the length and the time in the forms.  ``dt`` is the first length
        that is tried.
    order
        The order of the method.
    rtol, atol
        A step's error is at most ``atol + rtol |state|``: root mean square over the degrees of
        freedom, the largest of the states'.  Either is dimensionless or in the states' units.
    dt_min, dt_max
        Bounds on a step's length (of two halves), in the unit of ``time``.
    safety
        Factor on the length that the error suggests.

    Attributes
    ----------
    length : float
        The length that will be tried next.
    lengths : list of float
        Those of the steps taken; each is two halves.
    rejected : int
        The number of rejected trials.

    Raises
    ------
    ValueError
        If a tolerance, a length or a bound is not positive, or the order is less than one.

    Notes
    -----
    A trial is three calls of ``step`` without recording; where the tape records, an accepted
    step is two more.  All ranks take the same lengths.  At other controls the error is not
    estimated again: record anew where the solution has changed much.

    References
    ----------
    E. Hairer, S. P. Norsett, G. Wanner: Solving Ordinary Differential Equations I, section II.4.

    Examples
    --------
    >>> steps = AdaptiveSteps(stepper.advance, [u], dt, t, order=3, rtol=1e-4)
    >>> while float(t) < 1.0:
    ...     length = steps.step(1.0)
    """

    def __init__(
        self,
        step: Callable[[], Any],
        states: Sequence[fd.Function],
        dt: fd.Constant,
        time: fd.Constant,
        *,
        order: int,
        rtol: float = 1e-3,
        atol: float = 1e-6,
        dt_min: float = 0.0,
        dt_max: float = np.inf,
        safety: float = 0.9,
    ):
        good = (
            *(order >= 1, rtol >= 0, atol >= 0, rtol + atol > 0, 0 < safety <= 1),
            *(float(dt) > 0, 0 <= dt_min <= dt_max, dt_max > 0),
        )
        if not all(good):
            raise ValueError(
                f"AdaptiveSteps got order={order}, rtol={rtol}, atol={atol}, safety={safety}, "
                f"dt={float(dt)}, dt_min={dt_min}, dt_max={dt_max}: wanted an order of at least "
                "one, positive tolerances and lengths, and a safety factor of at most one."
            )
        self._call, self.states, self.dt, self.time = step, list(states), dt, time
        self.order, self.rtol, self.atol, self.safety = order, rtol, atol, safety
        self.dt_min, self.dt_max = dt_min, dt_max
        self.length = float(dt)
        self.lengths: list[float] = []
        self.rejected = 0

    def step(self, end: float) -> float:
        """Take one step towards ``end``, never past it; the last one hits it.  Collective.

        Parameters
        ----------
        end
            The time that the last step hits, in the unit of ``time``.

        Returns
        -------
        float
            The step's length: that of both halves.

        Raises
        ------
        ValueError
            If ``end`` is not later than the time.
        firedrake.ConvergenceError
            If no length of at least ``dt_min`` does.  The states, the time, ``dt`` and the tape
            are then as before the step, as after any other error.
        """
        start, end = float(self.time), float(end)
        if not end > start:
            raise ValueError(f"step({end}): the time is {start}, wanted a later one to step to.")
        before = _Snapshot([*self.states, self.dt, self.time])
        try:
            with stop_annotating():
                middle, stop = self._find(before, start, end)
            if annotate_tape():
                before.restore()
                self._halves(middle, stop)
        except BaseException:
            before.restore(tape=True)
            raise
        self.lengths.append(stop - start)
        return stop - start

    def _find(self, before: _Snapshot, start: float, end: float) -> tuple[float, float]:
        """Take the states over the longest step that is accurate; its middle and its end."""
        smallest = max(self.dt_min, 16 * np.finfo(float).eps * max(abs(start), abs(end)))
        length, growth = max(min(self.length, self.dt_max), self.dt_min), 5.0
        while True:
            taken = _fitted(length, end - start)
            middle, stop = start + taken / 2, end if taken == end - start else start + taken
            error, failure = self._trial(before, middle, stop)
            factor = max(0.2, self.safety * max(error, 1e-10) ** (-1 / (self.order + 1)))
            if error <= 1:
                wanted = taken * min(growth, factor)
                self.length = wanted if taken == length else max(wanted, length)
                return middle, stop
            self.rejected += 1
            if taken <= smallest:
                raise fd.ConvergenceError(
                    f"AdaptiveSteps: at time {start} the smallest step, {taken:.3g}, "
                    + (f"has {error:.3g} times the error" if failure is None else str(failure))
                    + f" (rtol={self.rtol}, atol={self.atol}, dt_min={self.dt_min}). The states "
                    "are those before the step. Give larger tolerances or a smaller dt_min."
                ) from failure
            length, growth = max(taken * factor, smallest), 1.0
            before.restore()

    def _trial(
        self, before: _Snapshot, middle: float, stop: float
    ) -> tuple[float, fd.ConvergenceError | None]:
        """The error of two halves over what is allowed; infinite where a solve fails."""
        try:
            self._over(stop)
            coarse = [u.copy(deepcopy=True) for u in self.states]
            before.restore()
            self._halves(middle, stop)
        except fd.ConvergenceError as failure:
            return np.inf, failure
        return self._error(before.values, coarse), None

    def _halves(self, middle: float, stop: float) -> None:
        self._over(middle)
        self._over(stop)

    def _over(self, stop: float) -> None:
        """One call of the user's from the present time."""
        self.dt.assign(stop - float(self.time))
        self._call()
        self.time.assign(stop)

    def _error(self, start: Sequence[fd.Function], coarse: Sequence[fd.Function]) -> float:
        comm = self.states[0].comm
        errors = []
        for u, u_start, u_coarse in zip(self.states, start, coarse, strict=False):
            fine, first, rough = (owned_values(f) for f in (u, u_start, u_coarse))
            allowed = self.atol + self.rtol * np.maximum(np.abs(fine), np.abs(first))
            with np.errstate(all="ignore"):
                scaled = (fine - rough) / (2**self.order - 1) / allowed
            scaled = np.where(fine == rough, 0.0, scaled)  # where nothing is allowed nor wrong
            total = sum_over_ranks(comm, np.array([np.sum(scaled**2), len(scaled)]))
            errors.append(np.sqrt(total[0] / total[1]))
        error = float(from_rank_zero(comm, np.max(errors)))
        return error if np.isfinite(error) else np.inf


class _Snapshot:
    """Values and tape nodes of Functions and Constants, and the tape's length, to go back to."""

    @no_annotations
    def __init__(self, held: Sequence[Any]):
        self._held = held
        self.values = [
            u.copy(deepcopy=True) if isinstance(u, fd.Function) else float(u) for u in held
        ]
        self._nodes = [u.block_variable for u in held]
        self._length = len(get_working_tape().get_blocks())

    @no_annotations
    def restore(self, tape: bool = False) -> None:
        """Take the values back and, if ``tape``, forget what has been recorded since."""
        for u, value in zip(self._held, self.values, strict=True):
            if isinstance(u, fd.Function):
                copy_values(value, u)
            else:
                u.assign(value)
        if tape:
            blocks = get_working_tape().get_blocks()
            while len(blocks) > self._length:
                blocks.pop()
                blocks.steps[-1].pop()
            for u, node in zip(self._held, self._nodes, strict=True):
                u.block_variable = node


def _fitted(length: float, left: float) -> float:
    """At most ``length``, so that the time that is left is not cut into a long and a tiny step."""
    return left if length >= left else min(length, left / 2)
