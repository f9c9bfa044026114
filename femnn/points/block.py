"""The tape's block of a network at points whose operands are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import firedrake as fd
import numpy as np
from firedrake.adjoint_utils.checkpointing import maybe_disk_checkpoint

from femnn.fields.derivatives import Direction
from femnn.parallel import sum_over_ranks
from femnn.points.map import PointMap
from femnn.tape.meshes import OnMeshes
from femnn.tape.nodes import add_dependencies
from femnn.tape.weights import Weights


class EvaluationBlock(OnMeshes):
    """A network evaluated at operands that are known: (weights, fields) to values at points.

    One product with the network's Jacobian carries the values' cotangent to the weights and to
    the operands, and transposed interpolations carry it on to the fields.

    Parameters
    ----------
    point_map
        The network at its points.
    weights
        The network's weights.
    spaces
        One for each output: spaces of values at the points.  The network's outputs go to them
        in this order.
    name
        How the tape's graph names the block.
    """

    def __init__(
        self,
        point_map: PointMap,
        weights: Weights,
        spaces: Sequence[Any],
        name: str,
        ad_block_tag: str | None = None,
    ):
        super().__init__(ad_block_tag=ad_block_tag)
        self.map = point_map
        self._spaces = list(spaces)
        self._name = name
        add_dependencies(self, [weights, *point_map.dependencies])
        self._n_fields = len(point_map.dependencies)
        self.stand_on([point_map.at.mesh])

    def __str__(self) -> str:
        return self._name

    def prepare_recompute_component(self, inputs: list, relevant_outputs: list) -> np.ndarray:
        inputs[0].check_ranks(self.map.at.mesh.comm)
        return self.map.values(self._load(inputs), inputs[0].vector)

    def recompute_component(
        self, inputs: list, block_variable: Any, idx: int, prepared: np.ndarray
    ) -> Any:
        return maybe_disk_checkpoint(self._output(prepared, idx))

    def prepare_evaluate_adj(
        self, inputs: list, adj_inputs: list, relevant_dependencies: list
    ) -> tuple[np.ndarray, np.ndarray]:
        indices = [index for index, _ in relevant_dependencies]
        return self.map.vjp(
            self._load(inputs),
            self._cotangent(adj_inputs),
            inputs[0].vector,
            of_inputs=indices != [0],
            of_weights=0 in indices,
        )

    def evaluate_adj_component(
        self, inputs: list, adj_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        of_inputs, of_weights = prepared
        if idx == 0:
            return self._weights(of_weights)
        return self.map.cotangent(block_variable.output, of_inputs)

    def prepare_evaluate_tlm(
        self, inputs: list, tlm_inputs: list, relevant_outputs: list
    ) -> np.ndarray:
        self._load(inputs)
        self._set_direction()
        return self.map.direction.variation(inputs[0].vector, of_slope=False).values

    def evaluate_tlm_component(
        self, inputs: list, tlm_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> fd.Function:
        return self._output(prepared, idx)

    def tangent_columns(self, moving: Mapping[Any, np.ndarray], n: int) -> np.ndarray | None:
        """The values' changes in many directions; see :mod:`femnn.tape.columns`.

        Parameters
        ----------
        moving
            The changes of those dependencies' nodes that change.
        n
            Number of directions.
        """
        with self._recorded_meshes():
            inputs = [bv.saved_output for bv in self.get_dependencies()]
            changes = {bv.output: matrix for bv, matrix in moving.items()}
            of_weights = changes.pop(self.get_dependencies()[0].output, None)
            self._load(inputs)
            return self.map.change_columns(inputs[0].vector, of_weights, changes, n)

    def prepare_evaluate_hessian(
        self, inputs: list, hessian_inputs: list, adj_inputs: list, relevant_dependencies: list
    ) -> _Second:
        x, weights = self._load(inputs), inputs[0].vector
        fields = self._set_direction()
        change, cotangent = self._cotangent(hessian_inputs), self._cotangent(adj_inputs)
        moved = self.map.direction.variation(weights, of_slope=False, cotangent=cotangent)
        of_inputs, of_weights = self.map.vjp(x, change, weights)
        of_fields = any(index for index, _ in relevant_dependencies)
        first, _ = self.map.vjp(x, cotangent, weights, of_inputs=of_fields, of_weights=False)
        return _Second(fields, first, of_inputs + moved.inputs, of_weights + moved.weights)

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
        if idx == 0:
            return self._weights(prepared.weights)
        return self.map.cotangent_change(
            block_variable.output, prepared.inputs, prepared.change, prepared.fields
        )

    def _load(self, inputs: list) -> np.ndarray:
        """The network's inputs at the points; after the fields come meshes that move."""
        return self.map.load(inputs[1 : 1 + self._n_fields])

    def _output(self, rows: np.ndarray, idx: int) -> fd.Function:
        """The output with this index, from values (or their changes) at the points."""
        values = fd.Function(self._spaces[idx])
        self.map.at.fill(values, columns_of(self._spaces, rows)[idx])
        return values

    def _cotangent(self, incoming: list) -> np.ndarray:
        """Cotangents of the outputs (``None`` for zero) as rows at the points."""
        rows = np.zeros((self.map.at.n_points, self.map.evaluator.n_outputs))
        for part, columns in zip(incoming, columns_of(self._spaces, rows), strict=True):
            if part is not None:
                columns[...] = self.map.at.rows(part)
        return rows

    def _set_direction(self) -> list[Direction]:
        """Set the map's direction from the tape; the fields that move in it."""
        weights_dot, *dots = (bv.tlm_value for bv in self.get_dependencies())
        dots = dots[: self._n_fields]
        return self.map.set_direction(dots, None if weights_dot is None else weights_dot.vector)

    def _weights(self, local: np.ndarray) -> Weights:
        return Weights(vector=sum_over_ranks(self.map.at.mesh.comm, local))


def columns_of(spaces: Sequence[Any], rows: np.ndarray) -> list[np.ndarray]:
    """Rows at points cut into the columns of each space's components, as views."""
    sizes = [int(np.prod(space.value_shape, dtype=int)) for space in spaces]
    return np.split(rows, np.cumsum(sizes)[:-1], axis=1)


@dataclass(frozen=True)
class _Second:
    """Of a Hessian's action.

    The fields that move, the inputs' cotangent and its change, and the change of the rank's
    part of the weights' gradient.
    """

    fields: list[Direction]
    inputs: np.ndarray
    change: np.ndarray
    weights: np.ndarray
