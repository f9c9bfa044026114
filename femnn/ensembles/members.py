"""The members of an ensemble that this rank's group has, evaluated one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import firedrake as fd
import numpy as np
from pyadjoint import Control, ReducedFunctional, Tape
from pyadjoint.drivers import compute_derivative, compute_hessian, compute_tlm
from pyadjoint.tape import set_working_tape, stop_annotating

from femnn.ensembles.groups import Failure, Groups
from femnn.ensembles.shared import Shared
from femnn.parallel import any_rank, any_rank_each
from femnn.tape.columns import gauss_newton_matrix
from femnn.tape.counts import at_most, counted_as_part
from femnn.tape.curvature import product_along_tangent
from femnn.tape.model import forget_guesses

Batch = tuple[int, ...]


@dataclass
class Member:
    """A model on a tape of its own.

    Attributes
    ----------
    index
        Its place among all members.
    functional
        Its loss.
    tape
        Its tape.
    uses
        The places of those controls that it depends on.
    nodes
        These controls, by the members' own nodes.
    given
        What else it depends on and does not compute: data, for it.
    """

    index: int
    functional: Any
    tape: Tape
    uses: list[int]
    nodes: list[Control]
    given: list[Any]

    def run(self, values: Sequence[Any]) -> float:
        """Its loss at these values of all controls."""
        if not self.nodes:
            return float(self.functional)
        own = ReducedFunctional(self.functional, self.nodes, tape=self.tape)
        return float(own([values[i] for i in self.uses]))


class Members:
    """All members as a function of the controls.  Collective.

    What the members' tapes hold is known here, so that nothing is computed twice.

    Parameters
    ----------
    groups
        The ranks.
    shared
        The controls.
    own
        This group's members.
    n_members
        The number of all.
    mean
        Whether the mean is taken.
    first
        The number of the first Constant that may be made while members are recorded.

    Attributes
    ----------
    own : sequence of Member
        This group's members.
    mean : bool
        Whether the mean is taken.
    losses : numpy.ndarray
        The members' losses where they were evaluated last, shape ``(n_members,)``.
    """

    def __init__(
        self,
        groups: Groups,
        shared: Shared,
        own: Sequence[Member],
        n_members: int,
        mean: bool,
        first: int,
    ):
        self.groups, self.shared = groups, shared
        self.own, self.mean = own, mean
        self._first = first
        self.everything: Batch = tuple(range(n_members))
        self.losses = np.full(n_members, np.nan)
        self._batch = self.everything
        self._at: np.ndarray | None = None
        self._gradient: np.ndarray | None = None
        self._has_adjoint = False
        self._direction: list[np.ndarray | None] | None = None

    def total(self, batch: Batch) -> float:
        """The sum or mean over the batch of the losses, in the members' order."""
        return self._factor(batch) * math.fsum(self.losses[list(batch)])

    def note_recorded(self, values: Sequence[Any], losses: np.ndarray) -> None:
        """Note what recording has computed."""
        self.losses, self._at = losses, self.shared.flat(values)

    def run(self, values: Sequence[Any], batch: Batch) -> float:
        """The functional at values of all controls.  Collective.

        Raises
        ------
        firedrake.ConvergenceError
            If a member's solve fails, on all ranks.
        RuntimeError
            If a member raises another error on another rank, or the values differ.
        """
        self.shared.check_ranks(values, batch)
        self._at, self._batch = None, batch
        self._gradient, self._has_adjoint, self._direction = None, False, None

        def run(member: Member, losses: np.ndarray) -> None:
            losses[member.index] = member.run(values)

        losses = self._summed(len(self.losses), run)
        self.losses = np.where(np.isin(self.everything, batch), losses, np.nan)
        self._at = self.shared.flat(values)
        return self.total(batch)

    def gradient(self, values: Sequence[Any], batch: Batch) -> np.ndarray:
        """The gradient, shape ``(n,)``; runs the members where they are elsewhere.  Collective."""
        self._stand_at(values, batch)
        if self._gradient is None:
            self._gradient = self._adjoint()
        return self._gradient

    def tangent(self, values: Sequence[Any], batch: Batch, direction: Sequence[Any]) -> float:
        """The functional's change in a direction, ``None`` for what does not change.  Collective.

        The members' tapes have the tangent-linear model's values then.
        """
        self._stand_at(values, batch)
        self._direction = None

        def change(member: Member, total: np.ndarray) -> None:
            moving = [i for i in member.uses if direction[i] is not None]
            member.tape.reset_tlm_values()
            if moving:
                nodes = [member.nodes[member.uses.index(i)] for i in moving]
                dots = [direction[i] for i in moving]
                total += float(compute_tlm(member.functional, nodes, dots, member.tape) or 0.0)

        total = self._summed(1, change)
        self._direction = _numbers(self.shared, direction)
        return self._factor(batch) * float(total[0])

    def hessian(self, values: Sequence[Any], batch: Batch, direction: Sequence[Any]) -> np.ndarray:
        """The Hessian's product with a direction, shape ``(n,)``.  Collective."""
        self._move(values, batch, direction)
        if not self._has_adjoint:
            self._adjoint()

        def product(member: Member) -> Any:
            model = (member.functional, member.nodes, member.nodes)
            return compute_hessian(*model, tape=member.tape, evaluate_tlm=False)

        return self._of_all(product)

    def gauss_newton(
        self, values: Sequence[Any], batch: Batch, direction: Sequence[Any]
    ) -> np.ndarray:
        """The Gauss-Newton matrix's product with a direction, shape ``(n,)``.  Collective."""
        self._move(values, batch, direction)
        self._has_adjoint = False

        def product(member: Member) -> Any:
            return product_along_tangent(member.functional, member.nodes, member.tape)

        return self._of_all(product)

    def gauss_newton_matrix(self, values: Sequence[Any], batch: Batch) -> np.ndarray | None:
        """The matrix, shape ``(n, n)``; ``None`` where a member has none.  Collective."""
        if self.shared.has_fields:
            return None
        self._stand_at(values, batch)
        self._has_adjoint, self._direction = False, None
        n = len(self.shared)

        def add(member: Member, total: np.ndarray) -> None:
            if not member.nodes:
                return
            matrix = gauss_newton_matrix(member.functional, member.nodes, member.tape)
            if matrix is None:
                total[-1] = 1.0
                return
            places = np.concatenate([np.arange(n)[self.shared.places[i]] for i in member.uses])
            total[:-1].reshape(n, n)[np.ix_(places, places)] += matrix

        total = self._summed(n * n + 1, add)
        return None if total[-1] else self._factor(batch) * total[:-1].reshape(n, n)

    def take_for_data(self, values: Sequence[Any]) -> list[bool]:
        """Whether members use each of these, which are no controls of theirs.  Collective."""
        data = {id(value) for member in self.own for value in member.given}
        return any_rank_each(self.groups.comm, [id(value) in data for value in values])

    def was_before(self, value: Any) -> bool:
        """Whether a value is a Constant from before the members were recorded."""
        return isinstance(value, fd.Constant) and value.count() < self._first

    def forget_guess(self) -> None:
        """Let the members' solvers start as if they had solved nothing before."""
        for member in self.own:
            forget_guesses(member)
        self.forget_value()

    def forget_value(self) -> None:
        """Evaluate anew the next time, also at the same controls: something else has changed."""
        self._at = None

    def _adjoint(self) -> np.ndarray:
        self._direction = None

        def derivative(member: Member) -> Any:
            return compute_derivative(member.functional, member.nodes, tape=member.tape)

        gradient = self._of_all(derivative)
        self._has_adjoint = True
        return gradient

    def _stand_at(self, values: Sequence[Any], batch: Batch) -> None:
        """Run the members where they hold other values."""
        known = self._at is not None and np.array_equal(self._at, self.shared.flat(values))
        if self.shared.has_fields:
            known = not any_rank(self.groups.comm, not known)
        if not (known and self._batch == batch):
            self.run(values, batch)

    def _move(self, values: Sequence[Any], batch: Batch, direction: Sequence[Any]) -> None:
        """Run the tangent-linear model where the tapes do not hold it in this direction."""
        self._stand_at(values, batch)
        known, wanted = self._direction, _numbers(self.shared, direction)
        same = known is not None and all(map(_are_same, known, wanted))
        if self.shared.has_fields:
            same = not any_rank(self.groups.comm, not same)
        if not same:
            self.tangent(values, batch, direction)

    def _of_all(self, derivatives: Callable[[Member], Any]) -> np.ndarray:
        """The sum of derivatives for each control."""

        def add(member: Member, total: np.ndarray) -> None:
            for i, part in zip(member.uses, derivatives(member), strict=True):
                total[self.shared.places[i]] += self.shared.flat([part])

        return self._factor(self._batch) * self._summed(len(self.shared), add)

    def _summed(self, n: int, add: Callable[[Member, np.ndarray], None]) -> np.ndarray:
        """The sum over members of what is added for each; one sum over ranks."""
        total, failure = np.zeros(n), None
        with at_most(math.inf, "") as spent, counted_as_part(), stop_annotating():
            for member in self.own:
                if failure is None and member.index in self._batch:
                    try:
                        with set_working_tape(member.tape):
                            add(member, total)
                    except Exception as error:
                        failure = Failure(member.index, error)
        if failure is not None:
            self._at = None
        return self.groups.sum(total, spent, failure)

    def _factor(self, batch: Batch) -> float:
        """A part's sum stands for that of all."""
        return (1 if self.mean else len(self.everything)) / len(batch)


def _numbers(shared: Shared, direction: Sequence[Any]) -> list[np.ndarray | None]:
    return [None if dot is None else shared.flat([dot]) for dot in direction]


def _are_same(known: np.ndarray | None, wanted: np.ndarray | None) -> bool:
    if known is None or wanted is None:
        return known is wanted
    return np.array_equal(known, wanted)
