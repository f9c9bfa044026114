"""The tape's block of the sum over an ensemble's members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pyadjoint import AdjFloat

from femnn.ensembles.members import Batch, Members
from femnn.ensembles.shared import name_of
from femnn.tape.between import NoColumns
from femnn.tape.model import OnRanks
from femnn.tape.nodes import AllAtOnce, add_dependencies


class BatchLoss(AdjFloat):
    """The sum over some of the members, which knows over which.

    Attributes
    ----------
    batch : tuple of int
        Their places.
    """

    batch: Batch = ()


class EnsembleBlock(AllAtOnce, OnRanks):
    """The sum or mean over the members.

    Derivatives are those of the members with which the value was computed, also where others are
    in force since.

    Parameters
    ----------
    members
        The members.

    Attributes
    ----------
    members : Members
        The members.
    batch : tuple of int
        Those over which the next evaluations are summed.
    """

    def __init__(self, members: Members):
        super().__init__()
        self.members, self.comm = members, members.groups.comm
        self.batch: Batch = members.everything
        self._second = members.hessian
        add_dependencies(self, members.shared.objects)

    def __str__(self) -> str:
        return f"ensemble of {len(self.members.everything)}"

    def value(self, number: float) -> BatchLoss:
        """A value of the present batch."""
        loss = BatchLoss(number)
        loss.batch = self.batch
        return loss

    def check_controls(self, who: str, controls: Sequence[Any]) -> None:
        """Raise where a control is data for members; see :class:`OnRanks`."""
        for value, is_data in zip(controls, self.members.take_for_data(controls), strict=True):
            if is_data:
                raise ValueError(
                    f"{who}: {name_of(value)} is a control, and members of an ensemble use it, of "
                    "which it is none: name it among the controls of femnn.ensemble, too."
                )

    def forget_guess(self) -> None:
        """Let the members' solvers start as if they had solved nothing before."""
        self.members.forget_guess()

    def recompute_component(
        self, inputs: list, block_variable: Any, idx: int, prepared: Any
    ) -> BatchLoss:
        return self.value(self.members.run(inputs, self.batch))

    def prepare_evaluate_adj(
        self, inputs: list, adj_inputs: list, relevant_dependencies: list
    ) -> list[Any]:
        gradient = self.members.gradient(inputs, self._evaluated)
        return self.members.shared.cotangents(float(adj_inputs[0]) * gradient)

    def evaluate_tlm_component(
        self, inputs: list, tlm_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> AdjFloat:
        return AdjFloat(self.members.tangent(inputs, self._evaluated, tlm_inputs))

    def evaluate_gauss_newton(self, markings: bool = False) -> None:
        """As ``evaluate_hessian``, with the members' Gauss-Newton matrices."""
        self._second = self.members.gauss_newton
        try:
            self.evaluate_hessian(markings=markings)
        finally:
            self._second = self.members.hessian

    def prepare_evaluate_hessian(
        self, inputs: list, hessian_inputs: list, adj_inputs: list, relevant_dependencies: list
    ) -> list[Any]:
        direction = [bv.tlm_value for bv in self.get_dependencies()]
        total = np.zeros(len(self.members.shared))
        if float(hessian_inputs[0]):
            total += float(hessian_inputs[0]) * self.members.gradient(inputs, self._evaluated)
        if adj_inputs[0] is not None and any(dot is not None for dot in direction):
            total += float(adj_inputs[0]) * self._second(inputs, self._evaluated, direction)
        return self.members.shared.cotangents(total)

    def hessian_columns(self, moving: dict[Any, np.ndarray], factor: float) -> dict:
        """The Gauss-Newton matrix times changes; see :mod:`femnn.tape.columns`.

        Parameters
        ----------
        moving
            The nodes with their changes, shape ``(n_numbers, n_directions)``.
        factor
            The functional's derivative for this sum.
        """
        nodes = self.get_dependencies()
        matrix = self.members.gauss_newton_matrix(
            [bv.saved_output for bv in nodes], self._evaluated
        )
        if matrix is None:
            raise NoColumns
        places = dict(zip(nodes, self.members.shared.places, strict=True))
        return {
            bv: factor * sum(matrix[places[bv], places[of]] @ moving[of] for of in moving)
            for bv in moving
        }

    @property
    def _evaluated(self) -> Batch:
        """The members over which the value on the tape was summed."""
        (node,) = self.get_outputs()
        return getattr(node.checkpoint, "batch", self.batch)
