"""What an ensemble's members say of data: a misfit over all tapes."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from femnn.ensembles.block import EnsembleBlock
from femnn.ensembles.groups import Failure
from femnn.ensembles.members import Member
from femnn.parallel import any_rank, gathered
from femnn.tape.columns import factors_of
from femnn.tape.model import blocks_behind
from femnn.tape.squares import LogErrors, Summary, SumOfSquares, squares_behind

WANTED = "wanted a build that returns data.misfit(u), of Observations"


class Likelihood:
    """The members' losses as one likelihood.  Collective.

    Parameters
    ----------
    block
        The block of their sum.
    who
        Who asks, for messages.

    Raises
    ------
    RuntimeError
        If a member on another rank is no sum of misfits.
    ValueError
        If one on this is not, or the mean or a batch is taken.
    """

    def __init__(self, block: EnsembleBlock, who: str):
        self._members, self._who = block.members, who
        members = self._members
        if block.batch != members.everything:
            raise ValueError(f"{who}: a batch of the ensemble is in force: leave Jhat.batch first.")
        if members.mean:
            raise ValueError(
                f"{who}: the ensemble is a mean, which is not minus the logarithm of a density: "
                "leave out mean=True."
            )
        failure = None
        for member in members.own:
            try:
                _check(member, who)
            except Exception as error:
                failure = failure or Failure(member.index, error)
        members.groups.agree(failure)
        members.forget_value()  # the check has reset what the tapes had of derivatives

    @property
    def blocks(self) -> list[SumOfSquares]:
        """The misfits of this group's members."""
        return list(self.numbered().values())

    def numbered(self) -> dict[tuple[int, int], SumOfSquares]:
        """The misfits of this group's members, by the member's place among all and their own."""
        return {
            (member.index, k): block
            for member in self._members.own
            for k, block in enumerate(squares_behind(member.functional, member.tape))
        }

    def summary(self) -> Summary:
        """All misfits together, where the members were evaluated last.  Collective."""
        known = [block.summary() for block in self.blocks]
        numbers = np.array([[s.n, s.squares, s.constant] for s in known]).reshape(-1, 3).sum(0)
        n, squares, constant = self._members.groups.sum(numbers)
        robust = gathered(self._members.groups.comm, max((s.robust for s in known), default=""))
        return Summary(int(n), float(squares), float(constant), max(robust))

    def refresh(self) -> None:
        """Let the members' tapes have the scale's present value."""
        for member in self._members.own:
            for block in blocks_behind(member.functional, member.tape):
                for node in block.get_dependencies():
                    if node.output is self.scale:
                        node.save_output()
        self.forget()

    def forget(self) -> None:
        """Evaluate the members anew the next time, also at the same controls."""
        self._members.forget_value()

    @cached_property
    def scale(self) -> Any:
        """The scale of all members' errors, or ``None``.  Collective.

        Raises
        ------
        ValueError
            If there are several, ``build`` has made it, or not all groups have it.
        """
        scales = {id(b.density.scale): b.density.scale for b in self.blocks}
        comm, scale = self._members.groups.comm, next(iter(scales.values()), None)
        inside = scale is not None and not self._members.was_before(scale)
        if any_rank(comm, len(scales) > 1 or inside):
            raise ValueError(
                f"{self._who}: the members' Observations have different scales, or one that build "
                "makes: wanted one Constant, made outside of build, as the scale of all of them, "
                "or none."
            )
        if any_rank(comm, scale is not None) and any_rank(comm, scale is None):
            raise ValueError(
                f"{self._who}: a group of ranks has no member, or one without the scale that the "
                "others have: wanted at most as many groups as members, and one Constant as the "
                "scale of all Observations."
            )
        return scale


def _check(member: Member, who: str) -> None:
    """Raise where a member's loss is not the sum of its misfits."""
    where = f"{who}: the loss of member {member.index} of the ensemble"
    if not squares_behind(member.functional, member.tape):
        raise ValueError(f"{where} has no misfit of Observations: {WANTED}.")
    if not member.nodes:
        raise ValueError(f"{where} depends on none of the controls: leave the member out.")
    factors = factors_of(member.functional, member.nodes, member.tape)
    if factors is None:
        raise ValueError(f"{where} is no sum of its terms: {WANTED}.")
    for block, factor in factors.items():
        if not isinstance(block, (SumOfSquares, LogErrors)):
            raise ValueError(
                f"{where} has another term, a {block}: priors and penalties are recorded once, "
                "outside of build, as in Jhat.functional + prior.energy()."
            )
        if abs(factor - 1) > 1e-12:
            raise ValueError(f"{where} has {factor:g} times a {block}: leave out the factor.")
