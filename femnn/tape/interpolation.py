"""The tape's block of an interpolated expression, which follows Constants too."""

from __future__ import annotations

from typing import Any

import firedrake as fd
from firedrake.adjoint_utils.checkpointing import maybe_disk_checkpoint
from pyadjoint.tape import annotate_tape, get_working_tape, no_annotations, stop_annotating

from femnn.fields.copies import copy_values
from femnn.fields.cotangents import Cotangent
from femnn.fields.derivatives import Direction
from femnn.fields.interpolation import Interpolated
from femnn.tape.meshes import OnMeshes
from femnn.tape.nodes import add_dependencies


def interpolated(given: Interpolated, space: Any) -> fd.Function:
    """A Function with an expression's present values; recorded where annotation is on.

    Collective.

    Parameters
    ----------
    given
        The expression in its space.
    space
        That space, or the part of another that it is.
    """
    with stop_annotating():
        value = fd.Function(space)
        copy_values(given.load({}), value)
    if annotate_tape() and given.dependencies:
        block = InterpolationBlock(given, space)
        get_working_tape().add_block(block)
        block.add_output(value.create_block_variable())
    return value


class InterpolationBlock(OnMeshes):
    """An expression interpolated into a space.

    Parameters
    ----------
    given
        The expression in its space.
    space
        The output's space.
    """

    def __init__(self, given: Interpolated, space: Any, ad_block_tag: str | None = None):
        super().__init__(ad_block_tag=ad_block_tag)
        self.given = given
        self._output_space = space
        add_dependencies(self, given.dependencies)
        self.stand_on(given.meshes)

    def __str__(self) -> str:
        return "interpolate"

    @no_annotations
    def recompute_component(
        self, inputs: list, block_variable: Any, idx: int, prepared: Any
    ) -> Any:
        self._load(inputs)
        value = self.result(self.given.value)
        return maybe_disk_checkpoint(value) if isinstance(value, fd.Function) else value

    def prepare_evaluate_adj(
        self, inputs: list, adj_inputs: list, relevant_dependencies: list
    ) -> fd.Cofunction:
        self._load(inputs)
        return self.cotangent_of(adj_inputs[0])

    def evaluate_adj_component(
        self, inputs: list, adj_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        return self.given.cotangent(block_variable.output, prepared)

    @no_annotations
    def evaluate_tlm_component(
        self, inputs: list, tlm_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        self._load(inputs)
        return self.result(self.given.change(self._moving()))

    def prepare_evaluate_hessian(
        self, inputs: list, hessian_inputs: list, adj_inputs: list, relevant_dependencies: list
    ) -> tuple[fd.Cofunction, fd.Cofunction, list[Direction]]:
        self._load(inputs)
        first, change = map(self.cotangent_of, (adj_inputs[0], hessian_inputs[0]))
        return first, change, self._moving()

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
        return self.given.cotangent_change(block_variable.output, *prepared)

    @no_annotations
    def result(self, values: fd.Function | None) -> Any:
        """The output with values in the space, or with zeros.  Collective."""
        result = fd.Function(self._output_space)
        if values is not None:
            copy_values(values, result)
        return result

    @no_annotations
    def cotangent_of(self, incoming: Any) -> Cotangent:
        """A cotangent of the output, or ``None`` for zero, as one of values in the space."""
        result = Cotangent(self.given.space.dual())
        if incoming is not None:
            copy_values(incoming, result)
        return result

    def _load(self, inputs: list) -> None:
        self.given.load(dict(zip(self.given.dependencies, inputs, strict=False)))

    def _moving(self) -> list[Direction]:
        return self.given.direction({bv.output: bv.tlm_value for bv in self.get_dependencies()})
