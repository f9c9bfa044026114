"""Two ways to put a network into a PDE and to train it, with the same interface.

A problem writes its model once, as a function of a method, so that discretisation, data and
starting weights are the same for both.  Both train by SciPy's L-BFGS-B with the same options.
"""

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import ufl
from firedrake import *
from firedrake.adjoint import *

import femnn
from benchmarks.published.training import Budget, Timer, Trained, quasi_newton, truncated_newton
from benchmarks.written_out import WrittenOutNetwork

DIRECT = {"ksp_type": "preonly", "pc_type": "lu"}
Errors = Callable[[femnn.MLP], dict[str, float]]
OURS, THEIRS, OURS_LONGER = "femnn", "network in UFL", "femnn, same time"


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
        timer = Timer()
        with set_working_tape(Tape()) as tape:
            continue_annotation()
            try:
                J = model(self)
            finally:
                pause_annotation()
        self.Jhat = ReducedFunctional(J, self.controls(), tape=tape)
        for shift in (1e-8, 0.0):
            self.value_and_gradient(self.first + shift)
        self.setup = timer.seconds()

    def train(self, budget: Budget) -> Trained:
        """Train from the starting weights."""
        trained = self.quasi_newton(budget)
        if not budget.newton_evaluations:
            return trained
        return truncated_newton(self.value_and_gradient, trained, budget)


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
        timer = Timer()
        result = femnn.fit(
            self.Jhat,
            maxiter=budget.iterations,
            gtol=0.0,
            options=budget.options(),
            callback=lambda step, weights: timer.seconds() > budget.seconds,
            progress=False,
        )
        return Trained(
            weights=result.weights.tolist(),
            loss=result.loss,
            initial_loss=result.initial_loss,
            iterations=result.iterations,
            evaluations=result.evaluations,
            seconds=timer.seconds(),
            setup=self.setup,
            history=[step.loss for step in result.history],
        )

    def row(self, trained: Trained, errors: Errors) -> dict:
        """What a training did and its errors, with whose weights the network is left."""
        self.weights.assign(np.array(trained.weights))
        return {**errors(self.net), **asdict(trained)}


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
        return quasi_newton(self.value_and_gradient, self.first, budget, self.setup)


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


def side_by_side(
    model: Callable,
    net: femnn.MLP,
    mesh,
    errors: Errors,
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
    rows = {name: ours.row(training, errors) for name, training in trained.items()}
    ours.weights.assign(ours.first)
    return rows


def by_femnn(model: Callable, net: femnn.MLP, mesh, errors: Errors, budget: Budget) -> dict:
    """Train a model by femnn alone; the network ends trained.

    Parameters as for :func:`side_by_side`; returns what the training did and the errors.
    """
    method = Hybrid(net, mesh)
    method.record(model)
    return method.row(method.train(budget), errors)
