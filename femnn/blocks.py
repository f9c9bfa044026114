"""pyadjoint blocks: evaluating a network, and solving with networks inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import firedrake as fd
import numpy as np
import ufl
from firedrake.adjoint_utils.checkpointing import maybe_disk_checkpoint
from pyadjoint import Block

from femnn.cotangents import zero_cotangent
from femnn.parallel import sum_over_ranks
from femnn.quadrature import entry_derivative, expression_derivative, fill, rows
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
        fill(values, self.coefficient.evaluator.value(x, inputs[0].vector))
        return maybe_disk_checkpoint(values)

    def prepare_evaluate_adj(
        self, inputs: list, adj_inputs: list, relevant_dependencies: list
    ) -> Any:
        x = self._inputs_of_network(inputs)
        cotangent = rows(adj_inputs[0])
        if all(index == 0 for index, _ in relevant_dependencies):
            return x, cotangent, None
        _, slope = self.coefficient.evaluator.value_and_derivative(x, inputs[0].vector)
        space = self.coefficient.points.space
        on_operands = fd.Cofunction(space.dual())
        fill(on_operands, np.einsum("pj,pji->pi", cotangent, slope))
        return x, cotangent, on_operands

    def evaluate_adj_component(
        self, inputs: list, adj_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        x, cotangent, on_operands = prepared
        coefficient = self.coefficient
        if idx == 0:
            local = coefficient.evaluator.weight_vjp(x, cotangent, inputs[0].vector)
            return Weights(vector=sum_over_ranks(coefficient.mesh.comm, local))
        copy = coefficient.mirrors.copies[block_variable.output]
        if isinstance(copy, fd.Constant):
            return self._constant_gradient(copy, on_operands)
        test = fd.TestFunction(copy.function_space())
        change = expression_derivative(coefficient.points.operands, copy, test)
        if isinstance(change, ufl.constantvalue.Zero):
            return zero_cotangent(copy.function_space())
        cotangent = zero_cotangent(copy.function_space())
        return fd.assemble(fd.interpolate(change, on_operands), tensor=cotangent)

    def _constant_gradient(self, copy: fd.Constant, on_operands: fd.Cofunction) -> np.ndarray:
        operands = self.coefficient.points.operands
        local = np.zeros(copy.ufl_shape)
        for index in np.ndindex(copy.ufl_shape):
            change = entry_derivative(operands, copy, index)
            if not isinstance(change, ufl.constantvalue.Zero):
                at_points = fd.assemble(fd.interpolate(change, self.coefficient.points.space))
                local[index] = np.vdot(rows(at_points), rows(on_operands))
        return sum_over_ranks(self.coefficient.mesh.comm, local)


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
