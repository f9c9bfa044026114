"""The tape's block of a solve with networks inside."""

from __future__ import annotations

import weakref
from typing import Any

import firedrake as fd
import numpy as np
from firedrake.adjoint_utils.checkpointing import maybe_disk_checkpoint
from pyadjoint import Block


class SolveBlock(Block):
    """The solution of a variational problem with networks of the unknown inside.

    All the work is done by the solver, on private copies of what the block depends on.

    Attributes
    ----------
    scale
        The smallest norm of a first residual when the solver started from the recorded guess.
    """

    def __init__(self, solver: Any, ad_block_tag: str | None = None):
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
