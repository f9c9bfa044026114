"""The solver of variational problems with networks of the unknown inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import firedrake as fd
from pyadjoint.tape import annotate_tape, get_working_tape, no_annotations, stop_annotating

from femnn.coefficient.coefficient import NeuralCoefficient
from femnn.fields.bounds import Pair
from femnn.fields.copies import copy_values
from femnn.variational.block import SolveBlock, Solves
from femnn.variational.problem import NeuralVariationalProblem
from femnn.variational.state import State


class NeuralVariationalSolver:
    """Solves a :class:`NeuralVariationalProblem`; recorded on the tape.

    Networks of the unknown are evaluated once for each iterate, values and derivatives in
    one sweep; Newton's tangent is exact, assembled in one pass as one sparse matrix.  The
    adjoint uses the same matrix object and its factorisation, transposed, and assembles it
    again only where it is not that of the solution.  Keep a solver for problems that are
    solved again and again, as in time loops.

    Parameters
    ----------
    problem
        The problem.
    solver_parameters, options_prefix, nullspace, transpose_nullspace, near_nullspace, appctx
        As for :class:`firedrake.NonlinearVariationalSolver`, to which all further keywords go.
    adjoint_solver_parameters
        Linear solver options for adjoints.  By default the forward solver's linear solver
        is used, transposed, with a relative tolerance of at most 1e-8 where it iterates.
    warm_start
        Whether the tape starts Newton's method from its last solution when it solves again
        with other controls, which saves iterations in training.  It starts from the recorded
        initial guess otherwise, where the last solution does not lead to a new one, and where
        Newton's method takes a fixed number of iterations.
    ad_block_tag
        A tag for the blocks that the tape records.
    **kwargs
        Passed to :class:`firedrake.NonlinearVariationalSolver`.
    """

    @no_annotations
    def __init__(
        self,
        problem: NeuralVariationalProblem,
        *,
        adjoint_solver_parameters: Mapping | None = None,
        warm_start: bool = True,
        ad_block_tag: str | None = None,
        **kwargs: Any,
    ):
        self._solves = Solves(problem, kwargs, warm_start, adjoint_solver_parameters)
        self._tag = ad_block_tag

    @property
    def problem(self) -> NeuralVariationalProblem:
        """The problem."""
        return self.state.problem

    @property
    def state(self) -> State:
        """The problem in private copies."""
        return self._solves.state

    @property
    def snes(self) -> Any:
        """PETSc's nonlinear solver."""
        return self.state.snes

    def solve(self, bounds: Pair | None = None, **kwargs: Any) -> fd.Function:
        """Solve the problem; the unknown's value is the initial guess.  Collective.

        Parameters
        ----------
        bounds
            ``(lower, upper)``, two Functions on the unknown's space between which the solution is,
            with ``snes_type`` vinewtonrsls or vinewtonssls.  A Function with the value
            ``PETSc.INFINITY`` or its negative is no bound.
        **kwargs
            ``annotate``: whether the tape records the solve; by default where annotation is on.

        Returns
        -------
        firedrake.Function
            The unknown.

        Raises
        ------
        firedrake.ConvergenceError
            If Newton's method or a linear solve fails; the unknown then keeps its value.
        RuntimeError
            If the weights differ between ranks, or a network raises an error on another rank.
        TypeError
            If a keyword is unknown, or bounds are not two Functions.
        ValueError
            If the weights are not finite, bounds are on another space, contradict each other or
            boundary values, or are given to a method that does not know them.
        NotImplementedError
            If bounds are given where ``restrict`` or an EquationBC is.

        Notes
        -----
        **Bounds.**  Where the unknown is at a bound, within ``snes_vi_zero_tolerance``, and the
        residual presses it there, derivatives take the bound for a boundary value: gradients
        reach the bounds too.  They are those of the active set of the solution.  Where an
        unknown is only just at its bound, with no residual, or just not, the solution has a
        kink in the controls, and the derivative is that of one side.
        """
        annotate = annotate_tape(kwargs)
        if kwargs:
            names = sorted(kwargs)
            raise TypeError(f"solve() got the unknown keywords {names}: only bounds and annotate.")
        return solve_and_record(self._solves, annotate, self._tag, bounds)


def solve_and_record(
    solves: Solves, annotate: bool, tag: str | None = None, bounds: Pair | None = None
) -> fd.Function:
    """Solve with the user's present values, and record it if wanted.  Collective."""
    state = solves.state
    bounds = None if bounds is None else _checked(bounds, state)
    for coefficient in (
        *state.explicit,
        *(b for b in bounds or () if isinstance(b, NeuralCoefficient)),
    ):
        coefficient.update()
    for coefficient in state.implicit:
        coefficient.weights.check_ranks(state.comm)
        coefficient.weights.check(coefficient.weights.vector)
    block = SolveBlock(solves, bounds, ad_block_tag=tag) if annotate else None
    with stop_annotating():
        _run(solves, bounds)
    if block is not None:
        _record(block)
    return state.problem.u


def _run(solves: Solves, bounds: Pair | None) -> None:
    """Solve in private copies, and give the user what was found."""
    state = solves.state
    state.load({}, state.present(bounds))
    solves.forward.run()
    copy_values(state.unknown, state.problem.u)
    for network in state.networks:
        network.coefficient.set_values(network.terms.value)


def _record(block: SolveBlock) -> None:
    get_working_tape().add_block(block)
    solves = block.solves
    node = solves.state.problem.u.create_block_variable()
    block.add_output(node)
    node.save_output()
    block.scale = solves.forward.first_residual


def _checked(bounds: Any, state: State) -> Pair:
    """The bounds, if they are two Functions and the solver can hold them."""
    pair = tuple(bounds) if isinstance(bounds, (tuple, list)) else (bounds,)
    if len(pair) != 2 or not all(isinstance(bound, fd.Function) for bound in pair):
        raise TypeError(
            f"bounds={bounds!r}: wanted (lower, upper), both Functions on the unknown's space. "
            "Function(V).assign(PETSc.INFINITY) is no upper bound, its negative no lower one."
        )
    space = state.unknown.function_space()
    for bound in pair:
        if bound.function_space() != space:
            raise ValueError(f"bounds: {bound.name()} is on {bound.function_space()}, not {space}.")
    if not state.takes_bounds:
        raise ValueError(
            f"bounds are given, but the nonlinear solver is {state.snes.getType()}, which does not "
            "know them: solver_parameters={'snes_type': 'vinewtonrsls', ...}, or 'vinewtonssls'."
        )
    if state.equations:
        raise NotImplementedError("bounds are given with an EquationBC: leave out one of them.")
    if state.restriction:
        raise NotImplementedError("bounds are given with restrict=True: leave out one of them.")
    return pair
