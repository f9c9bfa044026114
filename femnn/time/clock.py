"""Time as a Constant that advances, on the tape."""

from __future__ import annotations

from typing import Any

import firedrake as fd
from pyadjoint import Block
from pyadjoint.tape import annotate_tape, get_working_tape, stop_annotating


def advance(time: fd.Constant, dt: fd.Constant) -> None:
    """Let ``time`` be ``time + dt``; derivatives follow both."""
    block = AdvanceBlock(time, dt) if annotate_tape() else None
    with stop_annotating():
        time.assign(float(time) + float(dt))
    if block is not None:
        get_working_tape().add_block(block)
        block.add_output(time.create_block_variable())


class AdvanceBlock(Block):
    """The sum of two Constants."""

    def __init__(self, time: fd.Constant, dt: fd.Constant):
        super().__init__()
        self.add_dependency(time)
        self.add_dependency(dt)

    def __str__(self) -> str:
        return "time += dt"

    def recompute_component(
        self, inputs: list, block_variable: Any, idx: int, prepared: Any
    ) -> fd.Constant:
        return fd.Constant(sum(float(value) for value in inputs))

    def evaluate_adj_component(
        self, inputs: list, adj_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        return adj_inputs[0].copy()  # pyadjoint adds to it in place

    def evaluate_tlm_component(
        self, inputs: list, tlm_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> fd.Constant:
        return fd.Constant(sum(float(dot) for dot in tlm_inputs if dot is not None))

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
        return hessian_inputs[0].copy()
