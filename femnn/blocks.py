"""pyadjoint blocks: evaluating a network, and solving with networks inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import firedrake as fd
import numpy as np
import ufl
from firedrake.adjoint_utils.checkpointing import maybe_disk_checkpoint
from pyadjoint import Block

from femnn.cotangents import zero_cotangent
from femnn.directions import Direction, expression_along
from femnn.parallel import sum_over_ranks
from femnn.quadrature import entry_derivative, expression_derivative
from femnn.weights import Weights

if TYPE_CHECKING:
    from femnn.coefficient import NeuralCoefficient
    from femnn.solving import NeuralVariationalSolver


class EvaluationBlock(Block):
    """A network evaluated at operands that are known: (weights, fields) to values.

    The values' cotangent meets the weights in one product with the network's Jacobian, and
    the fields through the network's derivative and the transposed interpolation.
    """

    def __init__(self, coefficient: NeuralCoefficient, ad_block_tag: str | None = None):
        super().__init__(ad_block_tag=ad_block_tag)
        self.coefficient = coefficient
        self.add_dependency(coefficient.weights)
        for dependency in coefficient.dependencies:
            self.add_dependency(dependency)

    def __str__(self) -> str:
        return f"evaluate({self.coefficient.name()})"

    def _inputs_of_network(self, inputs: list[Any]) -> np.ndarray:
        coefficient = self.coefficient
        points = coefficient.points
        coefficient.mirrors.load(dict(zip(coefficient.dependencies, inputs[1:], strict=True)))
        return points.interpolate()

    def recompute_component(
        self, inputs: list, block_variable: Any, idx: int, prepared: Any
    ) -> Any:
        x = self._inputs_of_network(inputs)
        values = fd.Function(self.coefficient.function_space())
        self.coefficient.at.fill(values, self.coefficient.evaluator.value(x, inputs[0].vector))
        return maybe_disk_checkpoint(values)

    def prepare_evaluate_adj(
        self, inputs: list, adj_inputs: list, relevant_dependencies: list
    ) -> _Cotangents:
        x = self._inputs_of_network(inputs)
        cotangent = self.coefficient.at.rows(adj_inputs[0])
        if all(index == 0 for index, _ in relevant_dependencies):
            return _Cotangents(x, cotangent, None)
        _, slope = self.coefficient.evaluator.value_and_derivative(x, inputs[0].vector)
        return _Cotangents(x, cotangent, _on_operands(cotangent, slope))

    def evaluate_adj_component(
        self, inputs: list, adj_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        if idx == 0:
            evaluator, weights = self.coefficient.evaluator, inputs[0].vector
            return self._weights(evaluator.weight_vjp(prepared.x, prepared.values, weights))
        copy = self.coefficient.mirrors.copies[block_variable.output]
        operands = self.coefficient.points.operands
        return self._onto(copy, [(operands, prepared.operands)])

    def prepare_evaluate_tlm(
        self, inputs: list, tlm_inputs: list, relevant_outputs: list
    ) -> np.ndarray:
        self._inputs_of_network(inputs)
        self._set_direction()
        return self.coefficient.direction.variation(inputs[0].vector, of_slope=False).values

    def evaluate_tlm_component(
        self, inputs: list, tlm_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> fd.Function:
        change = fd.Function(self.coefficient.function_space())
        self.coefficient.at.fill(change, prepared)
        return change

    def prepare_evaluate_hessian(
        self, inputs: list, hessian_inputs: list, adj_inputs: list, relevant_dependencies: list
    ) -> _Second:
        x = self._inputs_of_network(inputs)
        fields = self._set_direction()
        weights, evaluator = inputs[0].vector, self.coefficient.evaluator
        change = self.coefficient.at.rows(hessian_inputs[0])
        cotangent = (
            np.zeros_like(change)
            if adj_inputs[0] is None
            else self.coefficient.at.rows(adj_inputs[0])
        )
        indices = [index for index, _ in relevant_dependencies]
        of_fields = indices != [0]
        moved = self.coefficient.direction.variation(
            weights, of_slope=of_fields, cotangent=cotangent if 0 in indices else None
        )
        local = evaluator.weight_vjp(x, change, weights) if 0 in indices else None
        if local is not None:
            local += moved.weights
        if not of_fields:
            return _Second(local, fields)
        _, slope = evaluator.value_and_derivative(x, weights)
        assert moved.slope is not None
        second = _on_operands(change, slope) + _on_operands(cotangent, moved.slope)
        return _Second(local, fields, _on_operands(cotangent, slope), second)

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
        copy = self.coefficient.mirrors.copies[block_variable.output]
        operands = self.coefficient.points.operands
        moved = expression_along(operands, prepared.fields)
        return self._onto(copy, [(operands, prepared.change), (moved, prepared.operands)])

    def _set_direction(self) -> list[Direction]:
        """Set the coefficient's direction from the tape; the fields that move in it."""
        dots = [bv.tlm_value for bv in self.get_dependencies()]
        fields = []
        for dependency, dot in zip(self.coefficient.dependencies, dots[1:], strict=True):
            if dot is not None:
                direction = self.coefficient.field_directions[dependency]
                direction.assign(dot)
                fields.append(direction)
        self.coefficient.direction.set(fields, None if dots[0] is None else dots[0].vector)
        return fields

    def _weights(self, local: np.ndarray) -> Weights:
        return Weights(vector=sum_over_ranks(self.coefficient.mesh.comm, local))

    def _onto(self, copy: Any, terms: list[tuple[Any, np.ndarray]]) -> Any:
        """The sum of cotangents of expressions at the points, carried to what these hold."""
        if isinstance(copy, fd.Constant):
            return self._onto_constant(copy, terms)
        total = zero_cotangent(copy.function_space())
        test = fd.TestFunction(copy.function_space())
        for expression, cotangent in terms:
            change = expression_derivative(expression, copy, test)
            if not isinstance(change, ufl.constantvalue.Zero):
                total += self.coefficient.at.transposed(change, cotangent)
        return total

    def _onto_constant(self, copy: fd.Constant, terms: list) -> np.ndarray:
        local, at = np.zeros(copy.ufl_shape), self.coefficient.at
        for index in np.ndindex(copy.ufl_shape):
            for expression, cotangent in terms:
                change = entry_derivative(expression, copy, index)
                if not isinstance(change, ufl.constantvalue.Zero):
                    local[index] += np.vdot(at.values_of(change)(), cotangent)
        return sum_over_ranks(self.coefficient.mesh.comm, local)


def _on_operands(cotangent: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """The values' cotangent carried to the operands, at the points."""
    return np.einsum("pj,pji->pi", cotangent, slope)


@dataclass(frozen=True)
class _Cotangents:
    """A network's inputs, and cotangents of its values and (where needed) its operands."""

    x: np.ndarray
    values: np.ndarray
    operands: np.ndarray | None


@dataclass(frozen=True)
class _Second:
    """Of a Hessian's action.

    The rank's part of the weights' gradient's change, the fields that move, and where fields'
    gradients are wanted the cotangent of the operands and its change.
    """

    weights: np.ndarray | None
    fields: list[Direction]
    operands: np.ndarray | None = None
    change: np.ndarray | None = None


class SolveBlock(Block):
    """The solution of a variational problem with networks of the unknown inside.

    All the work is done by the solver, on private copies of what the block depends on.
    """

    def __init__(self, solver: NeuralVariationalSolver, ad_block_tag: str | None = None):
        super().__init__(ad_block_tag=ad_block_tag)
        self.solver = solver
        self.boundary = solver.boundary_snapshots()
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
        solution = self.solver.solve_with(self._values(), self.boundary, guess=known)
        result = maybe_disk_checkpoint(solution)
        self.solver.remember(self, result)
        return result

    def prepare_evaluate_adj(
        self, inputs: list, adj_inputs: list, relevant_dependencies: list
    ) -> Any:
        output = self.get_outputs()[0]
        adjoint = self.solver.linearised_at(self, self._values(), output)
        self.adj_state = adjoint.solve(adj_inputs[0])
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
