"""The energy of a field's prior on the tape."""

from __future__ import annotations

from typing import Any

import firedrake as fd
import numpy as np
from pyadjoint import AdjFloat, Block

from femnn.parallel import from_rank_zero
from femnn.tape.nodes import add_dependencies


class FieldPriorBlock(Block):
    """The energy of a field's prior, with the precision that it has when it is evaluated.

    Parameters
    ----------
    prior
        The prior.

    Attributes
    ----------
    prior : FieldPrior
        The prior.
    prior_metric : dict
        The prior's inner product by the control's identity, for :func:`femnn.fit`.
    """

    def __init__(self, prior: Any):
        super().__init__()
        self.prior = prior
        self.prior_metric = {id(prior.control): prior.metric}
        add_dependencies(self, [prior.control])

    def __str__(self) -> str:
        return "field prior's energy"

    def hessian_columns(self, moving: dict[Any, np.ndarray], factor: float) -> dict:
        """The precision times changes in many directions; see :mod:`femnn.tape.columns`.

        Parameters
        ----------
        moving
            The node with its changes, of which this rank has its rows.
        factor
            The functional's derivative for the energy.
        """
        layout, metric = self.prior.layout, self.prior.metric
        ((node, rows),) = moving.items()
        whole = np.stack([layout.whole(column) for column in rows.T], axis=1)
        return {node: factor * layout.rows(metric.product(whole))}

    def recompute_component(
        self, inputs: list, block_variable: Any, idx: int, prepared: Any
    ) -> AdjFloat:
        return AdjFloat(self.prior.value(self.prior.layout.vector(inputs[0])))

    def evaluate_adj_component(
        self, inputs: list, adj_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> fd.Cofunction:
        return self._cotangent(float(adj_inputs[0]) * self._slope(inputs[0]))

    def evaluate_tlm_component(
        self, inputs: list, tlm_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> AdjFloat:
        slope, change = self._slope(inputs[0]), self.prior.layout.vector(tlm_inputs[0])
        return AdjFloat(from_rank_zero(self.prior.layout.comm, float(slope @ change)))

    def evaluate_hessian_component(
        self,
        inputs: list,
        hessian_inputs: list,
        adj_inputs: list,
        block_variable: Any,
        idx: int,
        relevant_dependencies: list,
        prepared: Any = None,
    ) -> fd.Cofunction:
        change = float(hessian_inputs[0]) * self._slope(inputs[0])
        direction = block_variable.tlm_value
        if direction is not None and adj_inputs[0] is not None:
            bent = self.prior.metric.product(self.prior.layout.vector(direction))
            change = change + float(adj_inputs[0]) * bent
        return self._cotangent(change)

    def _slope(self, field: fd.Function) -> np.ndarray:
        return self.prior.metric.product(self.prior.layout.vector(field) - self.prior.mean)

    def _cotangent(self, vector: np.ndarray) -> fd.Cofunction:
        result = fd.Cofunction(self.prior.control.function_space().dual())
        self.prior.layout.store(vector, result)
        return result
