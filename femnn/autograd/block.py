"""The tape's block of a torch module applied to fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import firedrake as fd
import numpy as np

from femnn.autograd.operation import Motion, Operation
from femnn.autograd.values import array_of
from femnn.fields.cotangents import zero_cotangent
from femnn.tape.nodes import AllAtOnce, add_dependencies
from femnn.tape.vector import Vector


class OperatorBlock(AllAtOnce):
    """A torch module applied to fields."""

    def __init__(self, operation: Operation, ad_block_tag: str | None = None):
        super().__init__(ad_block_tag=ad_block_tag)
        self.operation = operation
        add_dependencies(self, [operation.weights, *operation.sources])

    def __str__(self) -> str:
        return f"apply({type(self.operation.net).__name__})"

    def recompute_component(
        self, inputs: list, block_variable: Any, idx: int, prepared: Any
    ) -> Any:
        inputs[0].check_ranks(self.operation.comm)
        return self.operation.evaluate(*_split(inputs))

    def prepare_evaluate_adj(
        self, inputs: list, adj_inputs: list, relevant_dependencies: list
    ) -> list[Any]:
        return self._gradients(inputs, [(array_of(adj_inputs[0]), None)])

    def evaluate_tlm_component(
        self, inputs: list, tlm_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        return self.operation.change(*_split(inputs), self._motion())

    def prepare_evaluate_hessian(
        self, inputs: list, hessian_inputs: list, adj_inputs: list, relevant_dependencies: list
    ) -> list[Any]:
        terms: list[Any] = [(array_of(hessian_inputs[0]), None)]
        if adj_inputs[0] is not None:
            terms.append((array_of(adj_inputs[0]), self._motion()))
        return self._gradients(inputs, terms)

    def tangent_columns(self, moving: Mapping[Any, np.ndarray], n: int) -> np.ndarray | None:
        """The output's changes in many directions; see :mod:`femnn.tape.columns`.

        Parameters
        ----------
        moving
            The changes of those dependencies' nodes that change.
        n
            Number of directions.
        """
        weights, *sources = self.get_dependencies()
        if weights in moving:
            return None
        inputs = [bv.saved_output for bv in self.get_dependencies()]
        columns = [moving.get(bv) for bv in sources]
        return self.operation.change_columns(*_split(inputs), columns)

    def _motion(self) -> Motion:
        weights, *sources = (bv.tlm_value for bv in self.get_dependencies())
        moving = [None if dot is None else array_of(dot) for dot in sources]
        return moving, None if weights is None else weights.vector

    def _gradients(self, inputs: list, terms: list[tuple[np.ndarray, Motion | None]]) -> list[Any]:
        of_weights, of_sources = self.operation.cotangents(*_split(inputs), terms)
        pairs = zip(self.operation.sources, of_sources, strict=True)
        return [inputs[0].like(of_weights), *(_as_derivative(s, g) for s, g in pairs)]


def _split(inputs: list) -> tuple[np.ndarray, list[np.ndarray]]:
    """The weights' vector and the sources' values."""
    return inputs[0].vector, [array_of(value) for value in inputs[1:]]


def _as_derivative(source: Any, gradient: np.ndarray) -> Any:
    """An adjoint value of a source, as the tape adds them up."""
    if isinstance(source, Vector):
        return source.like(gradient)
    if not isinstance(source, fd.Function):
        return gradient if isinstance(source, fd.Constant) else float(gradient)
    cotangent = zero_cotangent(source.function_space())
    cotangent.dat.data_wo[...] = gradient
    return cotangent
