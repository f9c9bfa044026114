"""Two ways to put a network into a PDE and to train it, with the same interface.

A problem writes its model once, as a function of a method, so that discretisation, data and
starting weights are the same for both.  Both train by SciPy's L-BFGS-B with the same options.
"""

import contextlib
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import scipy.optimize
import ufl
from firedrake import *
from firedrake.adjoint import *

import femnn
from benchmarks.written_out import WrittenOutNetwork

DIRECT = {"ksp_type": "preonly", "pc_type": "lu"}
OURS, THEIRS, OURS_LONGER = "femnn", "network in UFL", "femnn, same time"


@dataclass
class Trained:
    """What a training did.

    Attributes
    ----------
    weights
        The trained weights, in the order of the network's parameters.
    loss, initial_loss
        The loss at these and at the first weights.
    iterations, evaluations
        Iterations; evaluations of value and gradient.
    seconds
        Processor time of the training.
    setup
        Processor time before it: recording the model, and two values and gradients, in which
        kernels are compiled.
    history
        The loss after each iteration, the first entry before any.
    """

    weights: list[float]
    loss: float
    initial_loss: float
    iterations: int
    evaluations: int
    seconds: float
    setup: float
    history: list[float]


@dataclass(frozen=True)
class Budget:
    """How long to train: what is spent first ends a stage.

    Attributes
    ----------
    iterations
        Of L-BFGS-B, with ten times as many evaluations at most, as in the paper.
    seconds
        Of L-BFGS-B, at whose end an iteration in hand is finished.
    newton_evaluations, newton_seconds
        Of SciPy's truncated Newton method, which follows; none by default.
    """

    iterations: int
    seconds: float = math.inf
    newton_evaluations: int = 0
    newton_seconds: float = math.inf


class Method:
    """What both methods share: recording a model, and training.

    Parameters
    ----------
    net
        The network, with its starting weights.
    """

    Jhat: ReducedFunctional

    def __init__(self, net: femnn.MLP):
        self.first = femnn.Weights.of(net).vector
        self.setup = 0.0

    def controls(self) -> list[Control]:
        """What the model's gradient is taken for."""
        raise NotImplementedError

    def value_and_gradient(self, w: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss and its gradient at some weights."""
        raise NotImplementedError

    def quasi_newton(self, budget: Budget) -> Trained:
        """Train by L-BFGS-B from the starting weights."""
        raise NotImplementedError

    def record(self, model: Callable) -> None:
        """Record ``model(self)``, which returns the loss, on a tape of its own."""
        began = cpu_seconds()
        with set_working_tape(Tape()) as tape:
            continue_annotation()
            try:
                J = model(self)
            finally:
                pause_annotation()
        self.Jhat = ReducedFunctional(J, self.controls(), tape=tape)
        for shift in (1e-8, 0.0):
            self.value_and_gradient(self.first + shift)
        self.setup = cpu_seconds() - began

    def train(self, budget: Budget) -> Trained:
        """Train from the starting weights."""
        trained = self.quasi_newton(budget)
        return self._truncated_newton(trained, budget) if budget.newton_evaluations else trained

    def _truncated_newton(self, trained: Trained, budget: Budget) -> Trained:
        began = cpu_seconds()
        best = (trained.loss, np.array(trained.weights))
        history, evaluations = list(trained.history), 0

        def value_and_gradient(w):
            nonlocal best, evaluations
            if cpu_seconds() - began > budget.newton_seconds:
                raise StopIteration
            evaluations += 1
            value, gradient = self.value_and_gradient(w)
            best = min(best, (value, w.copy()), key=lambda pair: pair[0])
            return value, gradient

        with contextlib.suppress(StopIteration):
            scipy.optimize.minimize(
                value_and_gradient,
                best[1],
                jac=True,
                method="TNC",
                callback=lambda w: history.append(best[0]),
                options={
                    "maxfun": budget.newton_evaluations,
                    **dict.fromkeys(("ftol", "gtol", "xtol"), 1e-20),
                },
            )
        return Trained(
            weights=best[1].tolist(),
            loss=best[0],
            initial_loss=trained.initial_loss,
            iterations=len(history) - 1,
            evaluations=trained.evaluations + evaluations,
            seconds=trained.seconds + cpu_seconds() - began,
            setup=self.setup,
            history=history,
        )


class Hybrid(Method):
    """femnn: the network stays in torch and enters the form as a coefficient."""

    assemble = staticmethod(femnn.assemble)

    def __init__(self, net: femnn.MLP, mesh):
        super().__init__(net)
        self.net, self.weights = net, femnn.Weights.of(net)

    def law(self, *operands, degree: int, measure=dx):
        """The network of some operands, for integrals of this measure and quadrature degree."""
        return femnn.NeuralCoefficient(self.net, *operands, degree=degree, measure=measure)

    def grad(self, law):
        """The gradient of a law in space."""
        return law.grad()

    def squared_norm(self):
        """The sum of squared weights, on the tape."""
        return self.weights.squared_norm()

    def solver(self, F, u: Function, bcs):
        """A solver for ``F == 0``, linear in ``u``, that keeps its factorisation."""
        problem = femnn.NeuralVariationalProblem(F, u, bcs, is_linear=True)
        return femnn.NeuralVariationalSolver(problem, solver_parameters=DIRECT)

    def nonlinear_solver(self, F, u: Function, bc: DirichletBC, parameters: dict):
        """A solver for ``F == 0`` by Newton's method, with PETSc's options."""
        problem = femnn.NeuralVariationalProblem(F, u, bc)
        return femnn.NeuralVariationalSolver(problem, solver_parameters=parameters)

    def controls(self) -> list[Control]:
        return [Control(self.weights)]

    def value_and_gradient(self, w: np.ndarray) -> tuple[float, np.ndarray]:
        value = float(self.Jhat([self.weights.like(w)]))
        return value, self.Jhat.derivative()[0].vector

    def quasi_newton(self, budget: Budget) -> Trained:
        self.weights.assign(self.first)
        began = cpu_seconds()
        result = femnn.fit(
            self.Jhat,
            maxiter=budget.iterations,
            gtol=0.0,
            options=options(budget),
            callback=lambda step, weights: cpu_seconds() - began > budget.seconds,
            progress=False,
        )
        return Trained(
            weights=result.weights.tolist(),
            loss=result.loss,
            initial_loss=result.initial_loss,
            iterations=result.iterations,
            evaluations=result.evaluations,
            seconds=cpu_seconds() - began,
            setup=self.setup,
            history=[step.loss for step in result.history],
        )


class WrittenOut(Method):
    """The paper's own method: the network written in UFL, Firedrake's solver and pyadjoint.

    A linear problem's matrices are kept over time steps (``constant_jacobian``), which the
    paper's scripts do not do.
    """

    assemble = staticmethod(assemble)

    def __init__(self, net: femnn.MLP, mesh):
        super().__init__(net)
        self.network = WrittenOutNetwork(net, mesh)

    def law(self, *operands, degree: int, measure=dx):
        """The network of some operands."""
        return self.network(*operands)

    def grad(self, law):
        """The gradient of a law in space."""
        return grad(law)

    def squared_norm(self):
        """The sum of squared weights, on the tape."""
        return self.network.squared_norm()

    def solver(self, F, u: Function, bcs):
        """A solver for ``F == 0``, linear in ``u``, that keeps its factorisation."""
        a, L = ufl.system(ufl.replace(F, {u: TrialFunction(u.function_space())}))
        problem = LinearVariationalProblem(a, L, u, bcs, constant_jacobian=True)
        return LinearVariationalSolver(problem, solver_parameters=DIRECT)

    def nonlinear_solver(self, F, u: Function, bc: DirichletBC, parameters: dict):
        """A solver for ``F == 0`` by Newton's method, with PETSc's options."""
        if isinstance(bc.function_arg, Function):
            return BoundaryInForm(F, u, bc, parameters)
        problem = NonlinearVariationalProblem(F, u, bc)
        return NonlinearVariationalSolver(problem, solver_parameters=parameters)

    def controls(self) -> list[Control]:
        return self.network.controls()

    def value_and_gradient(self, w: np.ndarray) -> tuple[float, np.ndarray]:
        with set_working_tape(self.Jhat.tape):  # whose recomputations kept matrices are told by
            value = float(self.Jhat(self.network.at(w)))
            return value, self.network.vector(self.Jhat.derivative())

    def quasi_newton(self, budget: Budget) -> Trained:
        began = cpu_seconds()
        history: list[float] = []

        def value_and_gradient(w):
            value, gradient = self.value_and_gradient(w)
            if not history:
                history.append(value)
            return value, gradient

        def note(intermediate_result):
            history.append(float(intermediate_result.fun))
            if cpu_seconds() - began > budget.seconds:
                raise StopIteration  # SciPy's way to end

        outcome = scipy.optimize.minimize(
            value_and_gradient,
            self.first,
            jac=True,
            method="L-BFGS-B",
            callback=note,
            options={"maxiter": budget.iterations, "gtol": 0.0, "ftol": 0.0, **options(budget)},
        )
        return Trained(
            weights=outcome.x.tolist(),
            loss=float(outcome.fun),
            initial_loss=history[0],
            iterations=int(outcome.nit),
            evaluations=int(outcome.nfev),
            seconds=cpu_seconds() - began,
            setup=self.setup,
            history=history,
        )


class BoundaryInForm:
    """Firedrake's kept solver with boundary values that may differ from step to step.

    pyadjoint's recomputation of a kept solver takes the boundary values that the last step has
    left.  So they are a coefficient of the form, and the unknown is zero on the boundary.
    """

    def __init__(self, F, u: Function, bc: DirichletBC, parameters: dict):
        V = u.function_space()
        self.u, self.bc = u, bc
        self.inside, self.boundary = Function(V), Function(V)
        self.whole = self.inside + self.boundary
        problem = NonlinearVariationalProblem(
            ufl.replace(F, {u: self.whole}), self.inside, bc.reconstruct(g=0)
        )
        self.solver = NonlinearVariationalSolver(problem, solver_parameters=parameters)

    def solve(self) -> None:
        """Solve, from the last solution."""
        with stop_annotating():
            values = Function(self.u.function_space())
            self.bc.apply(values)
        self.boundary.assign(values)
        self.solver.solve()
        self.u.assign(self.whole)


def cpu_seconds() -> float:
    """Processor time of this process and its ended children: other jobs do not count."""
    return sum(os.times()[:4])


def options(budget: Budget) -> dict:
    """SciPy's L-BFGS-B with its default memory, and the paper's limit of evaluations."""
    return {"maxcor": 10, "maxfun": 10 * budget.iterations}


def side_by_side(
    model: Callable,
    net: femnn.MLP,
    mesh,
    errors: Callable[[femnn.MLP], dict[str, float]],
    budget: Budget,
) -> dict[str, dict]:
    """Train a model by both methods from the same weights; femnn also for the other's time.

    Parameters
    ----------
    model
        Called with a method while annotation is on; returns the loss.
    net
        The network with its starting weights, which it ends with.
    mesh
        The mesh of the model.
    errors
        The errors of a trained network against the truth.
    budget
        For both methods.

    Returns
    -------
    dict
        For each training what it did and its errors, in what JSON can hold.
    """
    ours, theirs = Hybrid(net, mesh), WrittenOut(net, mesh)
    ours.record(model)
    trained = {OURS: ours.train(budget)}
    theirs.record(model)
    trained[THEIRS] = theirs.train(budget)
    longer = Budget(1000 * budget.iterations, seconds=trained[THEIRS].seconds)
    trained[OURS_LONGER] = ours.train(longer)
    rows = {}
    for name, training in trained.items():
        ours.weights.assign(np.array(training.weights))
        rows[name] = {**errors(net), **asdict(training)}
    ours.weights.assign(ours.first)
    return rows
