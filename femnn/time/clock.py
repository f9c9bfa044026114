"""Time that advances, on the tape.

pyadjoint records ``Constant.assign`` as the assignment of a number, so that nothing follows the
time before it or the step's length.  Here both are followed, whether they are Constants or
Functions on the Real space.
"""

from __future__ import annotations

from typing import Any

import firedrake as fd
import numpy as np
from pyadjoint import Block
from pyadjoint.tape import annotate_tape, get_working_tape, stop_annotating

from femnn.fields.cotangents import zero_cotangent
from femnn.tape.nodes import add_dependencies


def advance(time: Any, dt: Any) -> None:
    """Let ``time`` be ``time + dt``; derivatives follow both."""
    block = AdvanceBlock(time, dt) if annotate_tape() else None
    with stop_annotating():
        time.assign(float(time) + float(dt))
    if block is not None:
        get_working_tape().add_block(block)
        block.add_output(time.create_block_variable())


class AdvanceBlock(Block):
    """The sum of two numbers, each a Constant or a Function on the Real space."""

    def __init__(self, time: Any, dt: Any):
        super().__init__()
        self._like = time
        add_dependencies(self, [time, dt])

    def __str__(self) -> str:
        return "time += dt"

    def recompute_component(
        self, inputs: list, block_variable: Any, idx: int, prepared: Any
    ) -> Any:
        return self._time(sum(map(float, inputs)))

    def evaluate_adj_component(
        self, inputs: list, adj_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        return _cotangent_of(block_variable.output, adj_inputs[0])

    def evaluate_tlm_component(
        self, inputs: list, tlm_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        return self._time(sum(float(dot) for dot in tlm_inputs if dot is not None))

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
        return _cotangent_of(block_variable.output, hessian_inputs[0])

    def _time(self, value: float) -> Any:
        """A value of the time's type."""
        if isinstance(self._like, fd.Constant):
            return fd.Constant(value)
        return fd.Function(self._like.function_space()).assign(value)


def _cotangent_of(output: Any, incoming: Any) -> Any:
    """A cotangent of the sum as a new one of an output's type, to which pyadjoint may add."""
    on_real = isinstance(incoming, fd.Cofunction)
    number = float(incoming.dat.data_ro[0] if on_real else incoming)
    if isinstance(output, fd.Constant):
        return np.full(output.ufl_shape, number)
    cotangent = zero_cotangent(output.function_space())
    cotangent.dat.data_wo[...] = number
    return cotangent
