"""The tape's block of a solve with networks inside."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import firedrake as fd
import numpy as np
from firedrake.adjoint_utils.checkpointing import maybe_disk_checkpoint
from pyadjoint.tape import no_annotations, stop_annotating

from femnn.fields.bounds import Pair
from femnn.tape.meshes import OnMeshes
from femnn.tape.nodes import add_dependencies
from femnn.variational.adjoint import Adjoint
from femnn.variational.columns import TangentColumns
from femnn.variational.forward import ForwardSolve
from femnn.variational.problem import NeuralVariationalProblem
from femnn.variational.second_order import SecondOrder
from femnn.variational.state import State


class Solves:
    """What the blocks of one solver share: forward solves and derivatives, on one state.

    Parameters
    ----------
    problem
        The problem.
    options
        Keywords of :class:`firedrake.NonlinearVariationalSolver`.
    warm_start
        Whether a solve for the tape starts from the last solution.
    adjoint_parameters
        Linear solver options for adjoints, or ``None``.
    """

    def __init__(
        self,
        problem: NeuralVariationalProblem,
        options: Mapping[str, Any],
        warm_start: bool = True,
        adjoint_parameters: Mapping | None = None,
    ):
        self.state = State(problem, options)
        self.forward = ForwardSolve(self.state, warm_start)
        self._adjoint_parameters = adjoint_parameters

    @cached_property
    def adjoint(self) -> Adjoint:
        """Adjoint solves."""
        return Adjoint(self.state, self._adjoint_parameters)

    @cached_property
    def second_order(self) -> SecondOrder:
        """Second derivatives."""
        return SecondOrder(self.adjoint)

    @cached_property
    def columns(self) -> TangentColumns:
        """Tangent-linear solves in many directions."""
        return TangentColumns(self.state, self.adjoint.solve_tangent)


class SolveBlock(OnMeshes):
    """The solution of a variational problem with networks of the unknown inside.

    All the work is done on the solver's state, in private copies of what the block depends on.

    Parameters
    ----------
    solves
        The solver's forward solves and derivatives.
    bounds
        Lower and upper bounds of the unknown, or ``None``.

    Attributes
    ----------
    scale
        The smallest norm of a first residual when the solver started from the recorded guess.
    """

    def __init__(self, solves: Solves, bounds: Pair | None = None, ad_block_tag: str | None = None):
        super().__init__(ad_block_tag=ad_block_tag)
        self.solves = solves
        with stop_annotating():
            self.given = solves.state.present(bounds)
        self.scale = np.inf
        self._starts_cold = False
        self._adjoint_at: weakref.ref | None = None  # to tell, not to keep
        dependencies = dict.fromkeys([*solves.state.dependencies, *self.given.dependencies])
        add_dependencies(self, dependencies)
        self.stand_on(solves.state.meshes)

    def __str__(self) -> str:
        return "solve(neural variational problem)"

    def forget_guess(self) -> None:
        """Start the next time from the recorded guess, as if nothing had been solved before."""
        self._starts_cold, self.scale = True, np.inf

    @no_annotations
    def recompute_component(
        self, inputs: list, block_variable: Any, idx: int, prepared: Any
    ) -> Any:
        cold = self._starts_cold or block_variable.checkpoint is None
        known, self._starts_cold = None if cold else block_variable.saved_output, False
        solution, self.scale = self.solves.forward.again(
            self._values(inputs), self.given, known, self.scale
        )
        return maybe_disk_checkpoint(solution)

    @no_annotations
    def prepare_evaluate_adj(
        self, inputs: list, adj_inputs: list, relevant_dependencies: list
    ) -> Adjoint:
        self._load_solution(inputs)
        self.adj_state = self.solves.adjoint.solve(adj_inputs[0])
        self._adjoint_at = weakref.ref(self._output.checkpoint)
        return self.solves.adjoint

    @no_annotations
    def evaluate_adj_component(
        self, inputs: list, adj_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        return prepared.gradient(block_variable.output, self.adj_state)

    @no_annotations
    def prepare_evaluate_tlm(
        self, inputs: list, tlm_inputs: list, relevant_outputs: list
    ) -> fd.Function:
        self._load_solution(inputs)
        return self.solves.second_order.tangent(self._dots())

    def evaluate_tlm_component(
        self, inputs: list, tlm_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        return prepared

    @no_annotations
    def prepare_evaluate_hessian(
        self, inputs: list, hessian_inputs: list, adj_inputs: list, relevant_dependencies: list
    ) -> Any:
        self._check_adjoint()
        self._load_solution(inputs)
        return self.solves.second_order.adjoint_change(
            hessian_inputs[0], self.adj_state, self._output.tlm_value, self._dots()
        )

    @no_annotations
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
        return self.solves.second_order.gradient(block_variable.output, prepared)

    @no_annotations
    def tangent_columns(self, moving: Mapping[Any, np.ndarray], n: int) -> np.ndarray:
        """The solution's changes in many directions; see :mod:`femnn.tape.columns`.

        Parameters
        ----------
        moving
            The changes of those dependencies' nodes that change.
        n
            Number of directions.
        """
        with self._recorded_meshes():
            self._load_solution([bv.saved_output for bv in self.get_dependencies()])
            return self.solves.columns({bv.output: m for bv, m in moving.items()}, n)

    @property
    def _output(self) -> Any:
        return self.get_outputs()[0]

    def _values(self, inputs: list) -> dict[Any, Any]:
        """What each dependency was."""
        return {bv.output: v for bv, v in zip(self.get_dependencies(), inputs, strict=True)}

    def _dots(self) -> dict[Any, Any]:
        return {bv.output: bv.tlm_value for bv in self.get_dependencies()}

    def _load_solution(self, inputs: list) -> None:
        """Let the state be that of this block's solution.  Collective."""
        state = self.solves.state
        state.load(self._values(inputs), self.given, iterate=self._output.saved_output)
        state.evaluate()
        state.raise_failures()
        state.find_held()

    def _check_adjoint(self) -> None:
        known = None if self.adj_state is None or self._adjoint_at is None else self._adjoint_at()
        if known is None or known is not self._output.checkpoint:
            raise RuntimeError(
                "hessian() was called, but not derivative() since the functional was evaluated "
                "last: the action of the Hessian needs the adjoint at the same controls. Call "
                "Jhat.derivative() before Jhat.hessian(direction). Some of TAO's methods do not in "
                "pyadjoint's TAOSolver: use femnn.fit(Jhat, 'ntr'), or with nls and bnls the "
                "option '..._init_type': 'direction'."
            )
