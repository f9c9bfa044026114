"""What has been computed from the values of a problem's private copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import firedrake as fd
import numpy as np
from firedrake.petsc import DEFAULT_KSP_PARAMETERS, PETSc

from femnn.fields.copies import CoordinateState, owned_values, version
from femnn.fields.stamp import Stamp, Validity
from femnn.parallel import any_rank, on_all_ranks, raise_network_error
from femnn.variational.levels import LevelProblem, enable_levels
from femnn.variational.network import PrivateNetwork
from femnn.variational.private import Given, PrivateProblem
from femnn.variational.problem import NeuralVariationalProblem
from femnn.variational.restriction import Restriction

CALLBACKS = (
    "pre_function_callback",
    "pre_jacobian_callback",
    "post_jacobian_callback",
    "post_function_callback",
)
SEMISMOOTH = "vinewtonssls"
BOUNDED = ("vinewtonrsls", SEMISMOOTH)
# As Firedrake's solver of linear problems.
ONE_SOLVE = {"snes_type": "ksponly", "ksp_rtol": DEFAULT_KSP_PARAMETERS["ksp_rtol"]}


class State(PrivateProblem):
    """A problem in private copies, with the networks' values and the matrix at these.

    Whoever needs a value loads what it follows from, and asks for it: :meth:`evaluate` for the
    networks, :meth:`assemble_tangent` for the matrix.  Each is computed unless it was computed
    from the same values.

    Parameters
    ----------
    problem
        The problem.
    options
        Keywords of :class:`firedrake.NonlinearVariationalSolver`.

    Attributes
    ----------
    constant_tangent : bool
        Whether the matrix is the same at all iterates.
    solver : firedrake.NonlinearVariationalSolver
        Firedrake's solver of the problem in private copies.
    restriction : Restriction
        True where that solver's space is restricted to the unknowns that are free.
    solved : tuple, or None
        Right side and solution of the last linear system of a linear problem, and the norms of what
        each part of a mixed space has left over.
    """

    def __init__(self, problem: NeuralVariationalProblem, options: Mapping[str, Any]):
        super().__init__(problem, options.get("appctx"))
        self.options = dict(options)
        self._weights = {n.weights: _Counted() for n in self.networks}
        fixed = [copy for copy in self.copies.values() if copy is not self.unknown]
        self._in_operands = [d for d in fixed if any(d in n.depends_on for n in self.networks)]
        self._modules: tuple = ()
        held = self.in_matrix
        self.constant_tangent = self.unknown not in held and not self.networks
        self._in_matrix = [d for d in held if d is not self.unknown and d in self.copies.values()]
        self._moved = [CoordinateState(mesh) for mesh in self.meshes]
        self._retired: list[fd.NonlinearVariationalSolver] = []
        self.solved: tuple[Any, Any, Any] | None = None
        self._evaluated, self._assembled = Validity(self.comm), Validity(self.comm)
        self.solver = self._solver()

    def _solver(self) -> fd.NonlinearVariationalSolver:
        """Firedrake's solver of the private problem."""
        problem, options = self.problem, dict(self.options)
        callbacks: dict[str, Callable[..., None]] = {
            "pre_function_callback": lambda X: self._evaluate_all(),
            "pre_jacobian_callback": lambda X: self._evaluate_all(),
            "post_jacobian_callback": lambda X, J: self._note_matrix(J),
            "post_function_callback": lambda X, F: None,
        }
        for name, own in callbacks.items():
            options[name] = _followed_by(self.comm, own, options.get(name))
        options["appctx"] = self.appctx()
        if problem.is_linear:
            options["solver_parameters"] = {**ONE_SOLVE, **(options.get("solver_parameters") or {})}
        own = LevelProblem(
            self.residual + self.assembled.value if problem.assembled else self.residual,
            self.unknown,
            bcs=self.firedrake_conditions(),
            J=self.matrix,
            Jp=self.preconditioner,
            form_compiler_parameters=problem.form_compiler_parameters,
            is_linear=problem.is_linear,
            restrict=problem.restrict and not self.equations,
        )
        self.restriction = Restriction(own, self.unknown, self.boundary)
        solver = fd.NonlinearVariationalSolver(own, **options)
        # That method scales the matrix's rows.
        own._constant_jacobian = self.constant_tangent and solver.snes.getType() != SEMISMOOTH
        enable_levels(solver, self.held)
        solver.snes.setConvergenceHistory(reset=True)
        return solver

    def renew_solver(self) -> None:
        """Make Firedrake's solver again, after an error in the midst of PETSc's.

        It leaves vectors locked, and objects that PETSc crashes on when they are destroyed: the old
        solver is kept.
        """
        for network in self.networks:
            network.levels.clear()
        self._retired.append(self.solver)
        self.solver = self._solver()
        self._assembled.forget()

    @property
    def snes(self) -> Any:
        """PETSc's nonlinear solver."""
        return self.solver.snes

    @property
    def takes_bounds(self) -> bool:
        """Whether the nonlinear solver is one for variational inequalities."""
        return self.snes.getType() in BOUNDED

    @property
    def _zero_tolerance(self) -> float:
        """How near to a bound an unknown is at it."""
        return float(self.solver.parameters.get("snes_vi_zero_tolerance", 1e-8))

    def load(
        self,
        values: Mapping[Any, Any],
        given: Given | None = None,
        iterate: fd.Function | None = None,
    ) -> None:
        """Take values of the dependencies; the user's own where none are given.  Collective.

        Parameters
        ----------
        values
            Dependency to value: Functions, Constants, Weights.
        given
            What boundary values and bounds are; without, what the first are now, and no bounds.
        iterate
            The unknown, where it is not the initial guess that ``values`` has.
        """
        unknown = self.problem.u
        self._mirrors.load(values if iterate is None else {**values, unknown: iterate})
        given = self.present() if given is None else given
        for condition, at in zip(self.boundary, given.boundary, strict=True):
            condition.load(at, values)
        self.bounds.load(given.bounds, values, self.boundary, self._zero_tolerance)
        self.restriction.pass_boundary()
        self.assembled.load(values)
        for weights, known in self._weights.items():
            value = values.get(weights, weights)
            value.check_ranks(self.comm)
            known.take(value.vector)
        self._modules = tuple(n.version() for n in self.networks)

    def find_held(self) -> None:
        """Find the unknowns that bounds hold at the present state.  Collective."""
        if self.bounds.given is None:
            return
        self.evaluate()
        residual = fd.Cofunction(self.unknown.function_space().dual())
        self.solver._ctx._assemble_residual(tensor=residual, current_state=self.unknown)
        for condition in self.boundary:
            condition.zero(residual)
        self.bounds.find(self.unknown, residual, self._zero_tolerance)

    def boundary_drift(self) -> float:
        """How far the unknown is from its boundary values, relative to its largest.  Collective.

        The largest of its parts' numbers, in a mixed space.
        """
        wanted = self.unknown.copy(deepcopy=True)
        for condition in self.solver._problem.dirichlet_bcs():
            condition.apply(wanted)
        pairs = zip(wanted.subfunctions, self.unknown.subfunctions, strict=True)
        return max(_distance(*pair) for pair in pairs)

    def weights_of(self, network: PrivateNetwork) -> np.ndarray:
        """The weights that are loaded for a network, shape ``(n_weights,)``."""
        return self._weights[network.weights].vector

    def evaluate(self) -> None:
        """Let the networks have the values at the present state.  Collective.

        What a network raises is kept; :meth:`raise_failures` raises it on all ranks.
        """
        if not self.networks:
            return
        present = Stamp(self._versions_of_networks(), owned_values(self.unknown))
        if self._evaluated.holds(present):
            return
        for network in self.networks:
            network.evaluate(self.weights_of(network))
        self._evaluated.note(present)

    @contextmanager
    def networks_unchanged(self) -> Iterator[None]:
        """While Newton's method runs, nobody changes a network, unless in a callback."""
        with ExitStack() as stack:
            if not any(self.options.get(name) for name in CALLBACKS):
                for network in self.networks:
                    stack.enter_context(network.evaluator.unchanged())
            yield

    def raise_failures(self) -> None:
        """Raise on every rank what a network has raised on one of them.  Collective."""
        failures = [n.failure for n in self.networks if n.failure is not None]
        if not any_rank(self.comm, bool(failures)):
            return
        for network in self.networks:
            network.failure = None
        self._evaluated.forget()
        raise_network_error(self.comm, failures[0] if failures else None)

    def assemble_tangent(self) -> None:
        """Let the matrix be the one at the present state.  Collective."""
        self.evaluate()
        if not self.has_matrix():
            context = self.solver._ctx
            context._assemble_jac(context._jac)
            if context.Jp is not None:
                context._assemble_pjac(context._pjac)
            self._set_null_spaces(context)
            self._assembled.note(self._matrix_stamp())

    def has_matrix(self) -> bool:
        """Whether the matrix is the one at the present state.  Collective."""
        return self._assembled.holds(self._matrix_stamp())

    def _set_null_spaces(self, context: Any) -> None:
        """As Firedrake does where Newton's method asks for the matrix."""
        fields = self.unknown.function_space()._ises
        context.set_nullspace(context._nullspace, fields, transpose=False, near=False)
        context.set_nullspace(context._nullspace_T, fields, transpose=True, near=False)
        context.set_nullspace(context._near_nullspace, fields, transpose=False, near=True)

    def _evaluate_all(self) -> None:
        """Let the networks have their values, on all levels: PETSc does not say on which it is."""
        self.restriction.read_iterate()
        self.evaluate()
        for network in self.networks:
            network.evaluate_levels()

    def _note_matrix(self, matrix: Any) -> None:
        if matrix.handle == self.solver._ctx._jac.petscmat.handle:  # not a coarser level's
            self._assembled.note(self._matrix_stamp())

    def _matrix_stamp(self) -> Stamp:
        versions = (*map(version, self._in_matrix), *self.moves())
        if self.constant_tangent:
            return Stamp(versions)
        return Stamp((versions, self._versions_of_networks()), owned_values(self.unknown))

    def _versions_of_networks(self) -> tuple:
        """What the networks' values depend on, apart from the unknown."""
        weights = tuple(known.version for known in self._weights.values())
        operands = tuple(version(d) for d in self._in_operands)
        return weights, self._modules, operands, self.moves()

    def moves(self) -> tuple:
        """Where the meshes are, for what is computed from their coordinates."""
        return tuple(moved() for moved in self._moved)


def _distance(wanted: fd.Function, found: fd.Function) -> float:
    """The largest difference over the largest value wanted; overwrites ``wanted``.  Collective."""
    with wanted.dat.vec as a, found.dat.vec_ro as b:
        largest = a.norm(PETSc.NormType.NORM_INFINITY)
        a.axpy(-1.0, b)
        difference = a.norm(PETSc.NormType.NORM_INFINITY)
    return difference / largest if largest > 0 else np.inf if difference else 0.0


class _Counted:
    """The weights that are loaded for networks, and how often they have changed."""

    def __init__(self) -> None:
        self.vector = np.empty(0)
        self.version = 0

    def take(self, vector: np.ndarray) -> None:
        """Take other weights; the version stays where they are the same."""
        if not np.array_equal(self.vector, vector):
            self.vector, self.version = vector, self.version + 1


def _followed_by(comm: Any, own: Callable[..., None], other: Any) -> Callable[..., None]:
    """A callback of Firedrake's that calls ours and then the user's.  Collective."""

    def both(*args: Any) -> None:
        own(*args)
        if other is not None:
            elsewhere = "a callback of the solver raised an error on another rank."
            on_all_ranks(comm, other, *args, elsewhere=elsewhere)

    return both
