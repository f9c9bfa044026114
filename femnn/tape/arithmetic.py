"""The sum of squared weights as a node of the tape."""

from __future__ import annotations

from typing import Any

from pyadjoint import AdjFloat, Block


class SquaredNormBlock(Block):
    """The sum of squared weights."""

    def __init__(self, weights: Any):
        super().__init__()
        self.add_dependency(weights)

    def __str__(self) -> str:
        return "squared_norm(weights)"

    def recompute_component(
        self, inputs: list, block_variable: Any, idx: int, prepared: Any
    ) -> AdjFloat:
        return AdjFloat(inputs[0]._ad_dot(inputs[0]))

    def evaluate_adj_component(
        self, inputs: list, adj_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        return inputs[0]._ad_mul(2.0 * adj_inputs[0])

    def evaluate_tlm_component(
        self, inputs: list, tlm_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> AdjFloat:
        return AdjFloat(2.0 * inputs[0]._ad_dot(tlm_inputs[0]))

    def evaluate_hessian_component(
        self,
        inputs: list,
        hessian_inputs: list,
        adj_inputs: list,
        block_variable: Any,
        idx: int,
        relevant_dependencies: list,
        prepared: Any = None,
    ) -> Any:
        change = inputs[0]._ad_mul(2.0 * hessian_inputs[0])
        direction = block_variable.tlm_value
        if direction is None or adj_inputs[0] is None:
            return change
        return change._ad_add(direction._ad_mul(2.0 * adj_inputs[0]))
