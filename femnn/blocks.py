"""pyadjoint blocks: evaluating a network, and solving with networks inside."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import firedrake as fd
import numpy as np
from firedrake.adjoint_utils.checkpointing import maybe_disk_checkpoint
from pyadjoint import Block

from femnn.directions import Direction
from femnn.parallel import sum_over_ranks
from femnn.pointmap import PointMap
from femnn.weights import Weights

if TYPE_CHECKING:
    from femnn.coefficient import NeuralCoefficient
    from femnn.solving import NeuralVariationalSolver


class PointwiseBlock(Block):
    """A network evaluated at operands that are known: (weights, fields) to values at points.

    One product with the network's Jacobian carries the values' cotangent to the weights and to
    the operands, and transposed interpolations carry it on to the fields.

    Parameters
    ----------
    point_map
        The network at its points.
    weights
        The network's weights.
    """

    def __init__(self, point_map: PointMap, weights: Weights, ad_block_tag: str | None = None):
        super().__init__(ad_block_tag=ad_block_tag)
        self.map = point_map
        self.add_dependency(weights)
        for dependency in point_map.dependencies:
            self.add_dependency(dependency)

    def _output(self, rows: np.ndarray, idx: int) -> fd.Function:
        """The output with this index, from values (or their changes) at the points."""
        raise NotImplementedError

    def _cotangent(self, incoming: list) -> np.ndarray:
        """Cotangents of the outputs (``None`` for zero) as rows at the points."""
        raise NotImplementedError

    def prepare_recompute_component(self, inputs: list, relevant_outputs: list) -> np.ndarray:
        return self.map.values(self.map.load(inputs[1:]), inputs[0].vector)

    def recompute_component(
        self, inputs: list, block_variable: Any, idx: int, prepared: np.ndarray
    ) -> Any:
        return maybe_disk_checkpoint(self._output(prepared, idx))

    def prepare_evaluate_adj(
        self, inputs: list, adj_inputs: list, relevant_dependencies: list
    ) -> tuple[np.ndarray, np.ndarray]:
        indices = [index for index, _ in relevant_dependencies]
        return self.map.evaluator.vjp(
            self.map.load(inputs[1:]),
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
        self.map.load(inputs[1:])
        self._set_direction()
        return self.map.direction.variation(inputs[0].vector, of_slope=False).values

    def evaluate_tlm_component(
        self, inputs: list, tlm_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> fd.Function:
        return self._output(prepared, idx)

    def prepare_evaluate_hessian(
        self, inputs: list, hessian_inputs: list, adj_inputs: list, relevant_dependencies: list
    ) -> _Second:
        x, weights = self.map.load(inputs[1:]), inputs[0].vector
        fields = self._set_direction()
        change, cotangent = self._cotangent(hessian_inputs), self._cotangent(adj_inputs)
        moved = self.map.direction.variation(weights, of_slope=False, cotangent=cotangent)
        evaluator = self.map.evaluator
        of_inputs, of_weights = evaluator.vjp(x, change, weights)
        of_fields = any(index for index, _ in relevant_dependencies)
        first, _ = evaluator.vjp(x, cotangent, weights, of_inputs=of_fields, of_weights=False)
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

    def _set_direction(self) -> list[Direction]:
        """Set the map's direction from the tape; the fields that move in it."""
        weights_dot, *dots = (bv.tlm_value for bv in self.get_dependencies())
        return self.map.set_direction(dots, None if weights_dot is None else weights_dot.vector)

    def _weights(self, local: np.ndarray) -> Weights:
        return Weights(vector=sum_over_ranks(self.map.at.mesh.comm, local))


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


class EvaluationBlock(PointwiseBlock):
    """A neural coefficient's values."""

    def __init__(self, coefficient: NeuralCoefficient, ad_block_tag: str | None = None):
        super().__init__(coefficient.map, coefficient.weights, ad_block_tag)
        self.coefficient = coefficient

    def __str__(self) -> str:
        return f"evaluate({self.coefficient.name()})"

    def _output(self, rows: np.ndarray, idx: int) -> fd.Function:
        values = fd.Function(self.coefficient.function_space())
        self.map.at.fill(values, rows)
        return values

    def _cotangent(self, incoming: list) -> np.ndarray:
        if incoming[0] is None:
            return np.zeros((len(self.map.points.inputs), self.map.evaluator.n_outputs))
        return self.map.at.rows(incoming[0])


class SolveBlock(Block):
    """The solution of a variational problem with networks of the unknown inside.

    All the work is done by the solver, on private copies of what the block depends on.

    Attributes
    ----------
    scale
        The smallest norm of a first residual when the solver started from the recorded guess.
    """

    def __init__(self, solver: NeuralVariationalSolver, ad_block_tag: str | None = None):
        super().__init__(ad_block_tag=ad_block_tag)
        self.solver = solver
        self.boundary = solver.boundary_snapshots()
        self.scale = np.inf
        self._adjoint_at: weakref.ref | None = None  # to tell, not to keep
        for dependency in solver.dependencies:
            self.add_dependency(dependency, no_duplicates=True)

    def __str__(self) -> str:
        return "solve(neural variational problem)"

    def _values(self) -> dict[Any, Any]:
        """What each dependency was; boundary conditions as their nodes on the tape."""
        return {
            bv.output: bv if isinstance(bv.output, fd.DirichletBC) else bv.saved_output
            for bv in self.get_dependencies()
        }

    def recompute_component(
        self, inputs: list, block_variable: Any, idx: int, prepared: Any
    ) -> Any:
        known = None if block_variable.checkpoint is None else block_variable.saved_output
        solution, self.scale = self.solver.solve_with(
            self._values(), self.boundary, known, self.scale
        )
        result = maybe_disk_checkpoint(solution)
        self.solver.remember(self, result)
        return result

    def prepare_evaluate_adj(
        self, inputs: list, adj_inputs: list, relevant_dependencies: list
    ) -> Any:
        output = self.get_outputs()[0]
        adjoint = self.solver.linearised_at(self, self._values(), output)
        self.adj_state = adjoint.solve(adj_inputs[0])
        self._adjoint_at = weakref.ref(output.checkpoint)
        return adjoint

    def evaluate_adj_component(
        self, inputs: list, adj_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        return prepared.gradient(block_variable.output)

    def _dots(self) -> dict[Any, Any]:
        return {bv.output: bv.tlm_value for bv in self.get_dependencies()}

    def prepare_evaluate_tlm(self, inputs: list, tlm_inputs: list, relevant_outputs: list) -> Any:
        second = self.solver.second_order_at(self, self._values(), self.get_outputs()[0])
        return second.tangent(self._dots())

    def evaluate_tlm_component(
        self, inputs: list, tlm_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        return prepared

    def prepare_evaluate_hessian(
        self, inputs: list, hessian_inputs: list, adj_inputs: list, relevant_dependencies: list
    ) -> Any:
        output = self.get_outputs()[0]
        if self._adjoint_at is None or self._adjoint_at() is not output.checkpoint:
            raise RuntimeError(
                "hessian() was called, but not derivative() since the functional was evaluated "
                "last: the action of the Hessian needs the adjoint at the same controls. Call "
                "Jhat.derivative() before Jhat.hessian(direction); with TAO's nls, ntl and bntr, "
                "which do not, use the option '..._init_type': 'direction'."
            )
        second = self.solver.second_order_at(self, self._values(), output)
        second.solve(hessian_inputs[0], self.adj_state, output.tlm_value, self._dots())
        return second

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
        return prepared.gradient(block_variable.output)
