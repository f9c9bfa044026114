"""Variational problems with neural coefficients: Newton with the exact tangent, and adjoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from firedrake.petsc import PETSc
from pyadjoint.tape import annotate_tape, get_working_tape, no_annotations, stop_annotating
from ufl.domain import extract_domains

from femnn.coefficient.chain_rule import total_derivative
from femnn.fields.boundary import BoundaryValues
from femnn.fields.copies import (
    CoordinateState,
    Mirrors,
    copy_values,
    dependencies_of,
    owned_values,
    version,
)
from femnn.parallel import all_ranks, any_rank, raise_network_error
from femnn.variational.adjoint import Linearisation
from femnn.variational.block import SolveBlock
from femnn.variational.network import PrivateNetwork
from femnn.variational.problem import NeuralVariationalProblem
from femnn.variational.second_order import SecondOrder

FAR = 10.0  # how far from its tolerance a residual may be


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
        pre_function_callback: Any = None,
        pre_jacobian_callback: Any = None,
        **kwargs: Any,
    ):
        self.problem = problem
        self.adjoint_solver_parameters = adjoint_solver_parameters
        self.warm_start = warm_start
        self._tag = ad_block_tag
        self._callbacks = (pre_function_callback, pre_jacobian_callback)
        self._mirrors = Mirrors(_sources(problem))
        self._boundary = [BoundaryValues(bc) for bc in problem.bcs]
        self.unknown = self._mirrors.copies[problem.u]
        self._networks = [PrivateNetwork(c, self._mirrors) for c in problem.implicit]
        self._weights: dict[Any, np.ndarray] = {}
        self._evaluated: tuple | None = None
        self._holds: tuple[Any, Any] | None = None
        self._matrix_state: tuple | None = None
        self._linearisation: Linearisation | None = None
        self._second_order: SecondOrder | None = None
        self.options = kwargs
        self._moved = [CoordinateState(mesh) for mesh in extract_domains(problem.F)]
        self._build(kwargs)

    def _build(self, kwargs: dict) -> None:
        problem = self.problem
        self.residual = self._privately(problem.F)
        trial = fd.TrialFunction(problem.u.function_space())
        networks = [n.terms for n in self._networks]
        self.tangent = total_derivative(self.residual, self.unknown, trial, networks)
        forward_tangent = self.tangent if problem.J is None else self._privately(problem.J)
        self._inner = fd.NonlinearVariationalSolver(
            fd.NonlinearVariationalProblem(
                self.residual,
                self.unknown,
                bcs=[b.bc for b in self._boundary],
                J=forward_tangent,
                Jp=None if problem.Jp is None else self._privately(problem.Jp),
                form_compiler_parameters=problem.form_compiler_parameters,
                is_linear=problem.is_linear,
            ),
            pre_function_callback=self._before_residual,
            pre_jacobian_callback=self._before_tangent,
            **kwargs,
        )
        self.snes.setConvergenceHistory(reset=True)
        self._tangent_depends_on = [
            d
            for form in (forward_tangent, self._inner._problem.Jp)
            if form is not None
            for d in dependencies_of(ufl.algorithms.expand_derivatives(form))
        ]
        self._keeps_tangent = self.unknown not in self._tangent_depends_on and not self._networks

    @property
    def snes(self) -> Any:
        """PETSc's nonlinear solver."""
        return self._inner.snes

    @property
    def inner(self) -> fd.NonlinearVariationalSolver:
        """Firedrake's solver of the problem in private copies."""
        return self._inner

    @property
    def dependencies(self) -> list[Any]:
        """What the solution depends on, in the tape's sense, and the initial guess."""
        weights = dict.fromkeys(c.weights for c in self.problem.implicit)
        return [*weights, *self._mirrors.copies, *self.problem.bcs]

    def solve(self, **kwargs: Any) -> fd.Function:
        """Solve the problem; the unknown's value is the initial guess.  Collective.

        Returns
        -------
        firedrake.Function
            The unknown.

        Raises
        ------
        firedrake.ConvergenceError
            If Newton's method or a linear solve fails; the unknown then keeps its value.
        ValueError
            If the weights are not finite.
        """
        annotate = annotate_tape(kwargs)
        if kwargs:
            raise TypeError(f"solve() got the unknown keywords {sorted(kwargs)}: only annotate.")
        problem = self.problem
        for coefficient in problem.explicit:
            coefficient.update()
        for coefficient in problem.implicit:
            coefficient.weights.check_ranks(self.unknown.comm)
            coefficient.weights.check(coefficient.weights.vector)
        block = SolveBlock(self, ad_block_tag=self._tag) if annotate else None
        with stop_annotating():
            self._load({})
            self._run()
            copy_values(self.unknown, problem.u)
            for coefficient, network in zip(problem.implicit, self._networks, strict=True):
                coefficient.set_values(network.terms.value)
        if block is not None:
            get_working_tape().add_block(block)
            node = problem.u.create_block_variable()
            block.add_output(node)
            node.save_output()
            self.remember(block, node.checkpoint)
            block.scale = self.first_residual
        return problem.u

    # What the block on the tape calls.

    @no_annotations
    def solve_with(
        self,
        values: Mapping[Any, Any],
        boundary: Sequence | None = None,
        guess: fd.Function | None = None,
        scale: float = np.inf,
    ) -> tuple[fd.Function, float]:
        """The solution for other values of what it depends on; nothing of the user's changes.

        Starts from ``guess``, the solution of the last time, if the solver may; where that
        fails, and otherwise, from the initial guess that the tape has recorded.  ``scale`` is
        the smallest first residual from there that is known, which is returned as well.
        """
        self._load(values, boundary)
        if guess is not None and self._starts_warm:
            recorded = self.unknown.copy(deepcopy=True)
            copy_values(guess, self.unknown)
            try:
                self._run()
                self._continue_to(scale)
                return self.unknown.copy(deepcopy=True), scale
            except fd.ConvergenceError:
                copy_values(recorded, self.unknown)
        self._run()
        return self.unknown.copy(deepcopy=True), min(scale, self.first_residual)

    @property
    def _starts_warm(self) -> bool:
        """Whether the last solution leads to the same solution as the recorded guess.

        After a fixed number of iterations, as in linearly implicit steps, it does not.
        """
        fixed = self.snes.getConvergedReason() == PETSc.SNES.ConvergedReason.CONVERGED_ITS
        return self.warm_start and not self._keeps_tangent and not fixed

    def _continue_to(self, scale: float) -> None:
        """Go on with Newton's method where it has stopped too early for a residual's scale.

        It stops relative to its first residual, so a start from far off, as the solution at
        absurd weights can be, ends far from the solution.
        """
        snes = self.snes
        rtol, atol, *_ = snes.getTolerances()
        relative = snes.getConvergedReason() == PETSc.SNES.ConvergedReason.CONVERGED_FNORM_RELATIVE
        if not relative or snes.getFunctionNorm() <= FAR * rtol * scale:
            return
        snes.setTolerances(rtol=0.0, atol=max(atol, rtol * scale))
        try:
            self._run()
        finally:
            snes.setTolerances(rtol=rtol, atol=atol)

    @property
    def first_residual(self) -> float:
        """The norm of the last solve's first residual; infinite where PETSc has not taken it."""
        norms, _ = self.snes.getConvergenceHistory()
        return float(norms[0]) if len(norms) else np.inf

    def remember(self, block: Any, solution: Any) -> None:
        """Note that the private copies are in the state of this block's solution."""
        self._holds = (block, solution)

    @no_annotations
    def boundary_snapshots(self) -> list[np.ndarray | None]:
        """Boundary values that the tape does not know, as they are now."""
        return [b.snapshot() for b in self._boundary]

    @no_annotations
    def linearised_at(self, block: Any, values: Mapping[Any, Any], output: Any) -> Linearisation:
        """The problem linearised at the solution that ``block`` has computed."""
        if (
            self._holds is None
            or self._holds[0] is not block
            or self._holds[1] is not output.checkpoint
        ):
            self._load(values, block.boundary)
            copy_values(output.saved_output, self.unknown)
            self.remember(block, output.checkpoint)
        self.refresh()
        self._raise_failures()
        if self._linearisation is None:
            self._linearisation = Linearisation(self)
        return self._linearisation

    @no_annotations
    def second_order_at(self, block: Any, values: Mapping[Any, Any], output: Any) -> SecondOrder:
        """Second derivatives at the solution that ``block`` has computed."""
        linearisation = self.linearised_at(block, values, output)
        if self._second_order is None:
            self._second_order = SecondOrder(linearisation)
        return self._second_order

    # What the adjoint calls.

    @property
    def networks(self) -> list[PrivateNetwork]:
        """The networks of the unknown, in private copies."""
        return self._networks

    @property
    def sources(self) -> dict[Any, Any]:
        """The user's Functions and Constants, each with its private copy."""
        return self._mirrors.copies

    @property
    def boundary(self) -> list[BoundaryValues]:
        """The boundary conditions, in private copies."""
        return self._boundary

    def private(self, source: Any) -> Any:
        """The private copy of a Function or Constant of the user's."""
        return self._mirrors.copies[source]

    def weights_of(self, network: PrivateNetwork) -> np.ndarray:
        """The weights in use for a network."""
        return self._weights[network.coefficient.weights]

    def assemble_tangent(self) -> None:
        """Assemble the tangent at the present state, unless the matrix is already that."""
        if not self._matrix_is_present():
            context = self._inner._ctx
            context._assemble_jac(context._jac)
            if context.Jp is not None:
                context._assemble_pjac(context._pjac)
            self._matrix_state = self._tangent_state()

    def refresh(self) -> None:
        """Evaluate the networks of the unknown, unless the state is that of the last time."""
        if not self._networks:
            return
        iterate = owned_values(self.unknown)
        others = [d for n in self._networks for d in n.depends_on if d is not self.unknown]
        state = (
            [n.evaluator.state() for n in self._networks],
            [version(d) for d in others],
            [state() for state in self._moved],
        )
        known = self._evaluated
        same = known is not None and known[0] == state and np.array_equal(known[1], iterate)
        if all_ranks(self.unknown.comm, same):
            return
        self._evaluated = None
        for network in self._networks:
            network.evaluate(self.weights_of(network))
        self._evaluated = (state, iterate)

    def _raise_failures(self) -> None:
        """Raise on every rank what a network has raised on one of them.  Collective."""
        failures = [n.failure for n in self._networks if n.failure is not None]
        if not any_rank(self.unknown.comm, bool(failures)):
            return
        for network in self._networks:
            network.failure = None
        self._evaluated = None
        raise_network_error(self.unknown.comm, failures[0] if failures else None)

    def _privately(self, form: ufl.Form) -> ufl.Form:
        values = {n.coefficient: n.terms.value for n in self._networks}
        return ufl.replace(form, {**self._mirrors.copies, **values})

    def _load(self, values: Mapping[Any, Any], boundary: Sequence | None = None) -> None:
        self._holds = None
        self._mirrors.load(values)
        for i, b in enumerate(self._boundary):
            b.load(values.get(b.source), None if boundary is None else boundary[i])
        for coefficient in self.problem.implicit:
            weights = values.get(coefficient.weights, coefficient.weights)
            known = self._weights.get(coefficient.weights)
            vector = weights.vector
            if known is None or not np.array_equal(known, vector):
                self._weights[coefficient.weights] = vector
                self._evaluated = None

    def _run(self) -> None:
        inner = self._inner
        if self._keeps_tangent:
            inner._problem._constant_jacobian = True
            inner._ctx._jacobian_assembled = self._matrix_is_present()
        self._matrix_state = None
        try:
            inner.solve()
        except fd.ConvergenceError as error:
            self._raise_failures()
            raise fd.ConvergenceError(f"{error}\n{self._diagnosis()}") from error
        except PETSc.Error as error:
            inside = error.__cause__  # what a callback of the user's has raised
            if inside is None:
                raise
            raise inside from inside.__cause__
        if self._keeps_tangent:
            self._matrix_state = self._tangent_state()
        self.refresh()
        self._raise_failures()

    def _tangent_state(self) -> tuple:
        versions = (version(d) for d in self._tangent_depends_on)
        return (*versions, *(state() for state in self._moved))

    def _matrix_is_present(self) -> bool:
        """Whether the matrix is the tangent at the present state.  Collective."""
        present = self._matrix_state == self._tangent_state()
        return all_ranks(self.unknown.comm, present)

    def _before_residual(self, X: Any) -> None:
        self.refresh()
        if self._callbacks[0] is not None:
            self._callbacks[0](X)

    def _before_tangent(self, X: Any) -> None:
        self.refresh()
        if self._callbacks[1] is not None:
            self._callbacks[1](X)

    def _diagnosis(self) -> str:
        """What a failed solve can be due to, from what can be seen.  Collective."""
        comm = self.unknown.comm
        suspects = [
            source.name() if isinstance(source, fd.Function) else source.name
            for source, copy in self._mirrors.copies.items()
            if copy is not self.unknown and not all_ranks(comm, _is_finite(copy))
        ]
        suspects += [
            f"the boundary values on {b.source.sub_domain}"
            for b in self._boundary
            if not all_ranks(comm, _is_finite(b.value))
        ]
        if suspects:
            return f"NaN or infinite values were found in: {', '.join(suspects)}. Mend the data."
        bad = [
            n.coefficient.name()
            for n in self._networks
            if not all_ranks(comm, _is_finite(n.terms.value))
        ]
        found = f"At the last iterate {', '.join(bad)} gave NaN or infinity. " if bad else ""
        return (
            f"{found}The unknown keeps the value it had. Try a better initial guess, smaller time "
            "steps, a line search (solver_parameters={'snes_linesearch_type': 'bt'}), a network "
            "whose output keeps the problem well-posed (output='softplus'), and "
            "'snes_monitor': None to watch the residual."
        )


def _sources(problem: NeuralVariationalProblem) -> Iterable[Any]:
    """The user's Functions and Constants in the problem's forms and operands."""
    implicit = set(problem.implicit)
    expressions = [form for form in (problem.F, problem.J, problem.Jp) if form is not None]
    expressions += [c.inputs for c in problem.implicit]
    found = [d for e in expressions for d in dependencies_of(e) if d not in implicit]
    return dict.fromkeys([problem.u, *found])


def _is_finite(value: Any) -> bool:
    parts = value.subfunctions if isinstance(value, fd.Function) else (value,)
    return all(bool(np.isfinite(part.dat.data_ro).all()) for part in parts)
