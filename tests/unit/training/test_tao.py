"""TAO's optimisers, by fit and by pyadjoint's TAOSolver."""

import os
import signal

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *
from mpi4py import MPI
from pyadjoint.optimization.tao_solver import TAOConvergenceError

import femnn
from femnn.tape.petsc import OnRankZero
from femnn.training.coordinates import Coordinates
from femnn.training.hessian import Hessian
from femnn.training.run import Run
from femnn.training.settings import Settings
from femnn.training.tao import TAO, TYPES

SECOND = [kind.name for kind in TYPES if kind.radius]
BOUNDED = [kind.name for kind in TYPES if kind.takes_bounds]


def fitted(comm=MPI.COMM_SELF, riesz_map=None):
    """Weights, a field and a Constant in a functional of fourth order."""
    mesh = UnitSquareMesh(3, 2, comm=comm)
    x, y = SpatialCoordinate(mesh)
    f = Function(FunctionSpace(mesh, "CG", 1), name="f").assign(0.5)
    weights = femnn.Weights.of(femnn.MLP(1, 2, 1, seed=1), comm=comm)
    c = Constant(0.5, name="c")
    continue_annotation()
    J = femnn.assemble((0.1 * (c - f) ** 4 + (f - x) ** 2 + (c - 0.1 * y) ** 2) * dx)
    J = J + 0.1 * (weights * weights + weights - 0.5).squared_norm()
    pause_annotation()
    controls = [Control(weights), Control(f, riesz_map=riesz_map), Control(c)]
    return ReducedFunctional(J, controls), weights, f, c


@pytest.fixture(scope="module")
def lowest():
    """The lowest loss by L-BFGS, without bounds and with them."""
    losses = []
    for bounds in (None, [None, (0.3, 0.8), (None, 0.2)]):
        Jhat, _, _, c = fitted()
        c.assign(0.15)
        losses.append(femnn.fit(Jhat, bounds=bounds, gtol=1e-7, progress=False).loss)
    return losses


@pytest.mark.parametrize("method", TAO)
def test_every_method_finds_the_minimum(method, lowest):
    Jhat, weights, f, c = fitted()
    result = femnn.fit(Jhat, method, gtol=1e-6, maxiter=400, progress=False)
    assert result.reason == "converged"
    assert result.loss == pytest.approx(lowest[0], rel=1e-6)
    assert [s.iteration for s in result.history] == list(range(len(result.history)))
    losses = np.array([s.loss for s in result.history])
    assert np.diff(losses).max() < 1e-9 * losses[0]
    assert len(set(losses)) == len(losses), "an iterate is reported twice"
    assert np.array_equal(weights.vector, result.weights)
    assert Jhat([weights, f, c]) == pytest.approx(result.loss, rel=1e-10)


@pytest.mark.parametrize("method", BOUNDED)
def test_methods_with_bounds_keep_to_them_exactly(method, lowest):
    Jhat, _, f, c = fitted()
    c.assign(0.15)
    result = femnn.fit(
        Jhat,
        method,
        bounds=[None, (0.3, 0.8), (None, 0.2)],
        gtol=1e-6,
        maxiter=400,
        progress=False,
    )
    assert result.reason == "converged"
    assert result.loss == pytest.approx(lowest[1], rel=1e-6)
    assert (f.dat.data_ro.min(), f.dat.data_ro.max()) == (0.3, 0.8)
    assert float(c) <= 0.2


def test_methods_that_do_not_keep_to_bounds_say_so():
    Jhat, *_ = fitted()
    for method in set(TAO) - set(BOUNDED):
        with pytest.raises(ValueError, match=f"bounds are nothing that {method} keeps to"):
            femnn.fit(Jhat, method, bounds=[None, (0, 1), None], progress=False)


def test_newtons_method_converges_quadratically():
    Jhat, *_ = fitted()
    norms = []
    femnn.fit(
        Jhat,
        "bnls",
        gtol=1e-11,
        options={"tao_bnk_ksp_rtol": 1e-10},
        callback=lambda step, w: norms.append(step.gradient_norm),
        progress=False,
    )
    falls = np.diff(np.log(norms))
    assert len(norms) < 25
    assert max(falls[1:] / falls[:-1]) > 1.7


@pytest.mark.parallel([1, 2, 3])
@pytest.mark.parametrize("method", ["bqnls", "bnls"])
def test_tao_does_not_depend_on_ranks(method):
    comm = MPI.COMM_WORLD
    bounds = [None, (0.3, 0.8), None]
    # Conjugate gradients that stop early make more of rounding.
    exact = {"tao_bnk_ksp_rtol": 1e-10} if method == "bnls" else {}
    options = {"maxiter": 6, "bounds": bounds, "options": exact, "progress": False}
    result = femnn.fit(fitted(comm)[0], method, **options)
    alone = femnn.fit(fitted()[0], method, **options)
    losses, expected = ([s.loss for s in r.history] for r in (result, alone))
    assert len(losses) > 4
    assert np.allclose(losses, expected, rtol=1e-8, atol=0)
    assert len(set(comm.allgather(str(losses)))) == 1


@pytest.mark.parallel([1, 2, 3])
@pytest.mark.parametrize("riesz_map", ["L2", "H1"])
def test_gradient_and_hessian_in_the_optimisers_coordinates(riesz_map):
    """The remainder is of order 2 with the gradient, and of order 3 with the Hessian as well."""
    Jhat, *_ = fitted(MPI.COMM_WORLD, riesz_map)
    with stop_annotating(), Run(Jhat, "bnls", Settings(), None, False) as run:
        run.loss.start()
        coordinates = Coordinates(run)
        y = coordinates.best()
        d = run.loss.controls.metric.coordinates(np.linspace(0.5, 1.0, len(y)))
        value, gradient = coordinates(y)
        vectors = OnRankZero(MPI.COMM_WORLD, len(y))
        curvature = d @ Hessian(run, coordinates, vectors, lambda f: f).act(d)
        first, second = [], []
        for h in (2e-2, 1e-2, 5e-3):
            rest = coordinates(y + h * d)[0] - value - h * (gradient @ d)
            first.append(abs(rest))
            second.append(abs(rest - 0.5 * h**2 * curvature))
    assert np.allclose(np.log2(first[:-1]) - np.log2(first[1:]), 2, atol=0.1)
    assert np.allclose(np.log2(second[:-1]) - np.log2(second[1:]), 3, atol=0.15)


def test_settings_of_tao():
    Jhat, *_ = fitted()
    limited = femnn.fit(Jhat, "bqnls", maxiter=3, progress=False)
    assert (limited.reason, limited.iterations) == ("iterations", 3)
    limited = femnn.fit(Jhat, "bqnls", options={"tao_max_funcs": 2}, progress=False)
    assert limited.reason == "evaluations"
    assert femnn.fit(Jhat, "bqnls", ftol=0.5, progress=False).reason == "converged"
    target = 0.99 * float(limited.loss)
    assert femnn.fit(Jhat, "bqnls", target=target, progress=False).reason == "target"
    for options, message in (
        ({"tao_ls_tpye": "armijo"}, r"'tao_ls_tpye', which TAO's bqnls does not take"),
        ({"tao_max_it": 3}, r"'tao_max_it', which is an argument of fit: maxiter="),
        ({"tao": {"gatol": 3}}, r"'tao_gatol', which is an argument of fit: gtol="),
        ({"tao_ls_type": "no such"}, r"bqnls does not take options=\{'tao_ls_type'"),
        ({"tao_bnk_init_type": "constant"}, r"'tao_bnk_init_type', which TAO's bqnls does not"),
    ):
        with pytest.raises(ValueError, match=message):
            femnn.fit(Jhat, "bqnls", options=options, progress=False)
    with pytest.raises(ValueError, match=r"learning_rate=0\.1 is nothing that bqnls uses"):
        femnn.fit(Jhat, "bqnls", learning_rate=0.1, progress=False)
    with pytest.raises(TypeError, match=r"bnls takes second derivatives, and a Bare has no hess"):
        femnn.fit(Bare(Jhat), "bnls", progress=False)


class Bare:
    """A functional without second derivatives, which fails where it is told to."""

    def __init__(self, Jhat, error=None, at=()):
        self.Jhat, self.error, self.at, self.calls = Jhat, error, at, 0
        self.controls, self.derivative = Jhat.controls, Jhat.derivative
        self.tape, self.functional = Jhat.tape, Jhat.functional

    def __call__(self, values):
        self.calls += 1
        if self.calls in self.at:
            raise self.error
        return self.Jhat(values)


class Curved(Bare):
    """One with second derivatives, which count, too."""

    def hessian(self, direction):
        self.calls += 1
        if self.calls in self.at:
            raise self.error
        return self.Jhat.hessian(direction)


@pytest.mark.parametrize("method", ["lmvm", "bqnls", "nls", "bnls"])
def test_errors_reach_the_caller_as_they_are_and_the_best_is_kept(method):
    for at in (3, 5, 8, 24):
        Jhat, weights, f, c = fitted()
        error, seen = KeyError("mine"), []
        failing = Curved(Jhat, error, [at])
        with pytest.raises(KeyError, match="mine") as caught:
            femnn.fit(
                failing, method, callback=lambda s, w, s_=seen: s_.append(s.loss), progress=False
            )
        assert caught.value is error
        assert error.__cause__ is None
        assert Jhat([weights, f, c]) <= min(seen) * (1 + 1e-10)
    assert len(seen) > 1


@pytest.mark.parametrize("method", ["bqnls", "bnls"])
def test_a_forward_solve_that_fails_is_a_rejected_step_of_tao(method):
    Jhat, *_ = fitted()
    failing = Bare(Jhat, ConvergenceError("no solution"), [3, 4, 6])
    failing.hessian = Jhat.hessian
    result = femnn.fit(failing, method, gtol=1e-6, maxiter=400, progress=False)
    assert result.rejected == 3
    assert result.reason == "converged"


@pytest.mark.parametrize("method", ["bqnls", "bnls"])
def test_callback_and_ctrl_c(method):
    Jhat, weights, f, c = fitted()

    def callback(step, w):
        assert np.array_equal(w, weights.vector)
        assert Jhat([weights, f, c]) == pytest.approx(step.loss, rel=1e-10)
        f.assign(7.0)  # what a callback does to them is not kept
        if step.iteration == 2:
            os.kill(os.getpid(), signal.SIGINT)

    interrupted = femnn.fit(Jhat, method, callback=callback, progress=False)
    assert (interrupted.reason, interrupted.iterations) == ("interrupted", 2)
    assert f.dat.data_ro.max() < 1.5
    stopped = femnn.fit(Jhat, method, callback=lambda s, w: s.iteration == 1, progress=False)
    assert stopped.reason == "callback"
    with pytest.raises(ZeroDivisionError):
        femnn.fit(Jhat, method, callback=lambda s, w: s.iteration and 1 / 0, progress=False)


# pyadjoint's TAOSolver


@pytest.mark.parallel([1, 2, 3])
@pytest.mark.parametrize("tao_type", ["lmvm", "bnls"])
def test_pyadjoints_taosolver_takes_weights_beside_functions(tao_type):
    comm = MPI.COMM_WORLD
    Jhat, weights, f, _ = fitted(comm)
    Jhat = ReducedFunctional(Jhat.functional, Jhat.controls[:2])
    femnn.fit(Jhat, gtol=1e-7, progress=False)
    lowest = Jhat([weights, f])
    Jhat([weights.like(np.full(len(weights), 0.1)), Function(f.function_space())])
    parameters = {"tao_type": tao_type, "tao_gatol": 1e-7, "tao_bnk_init_type": "direction"}
    problem = MinimizationProblem(Jhat, bounds=[(-5.0, 5.0), (None, 5.0)])
    found = TAOSolver(problem, parameters, comm=comm).solve()
    assert Jhat(found) == pytest.approx(lowest, rel=1e-8)
    assert len(set(comm.allgather(found[0].vector.tobytes()))) == 1


def test_pyadjoints_taosolver_says_why_it_has_not_converged():
    Jhat, weights, *_ = fitted()
    Jhat = ReducedFunctional(Jhat.functional, Control(weights))
    solver = TAOSolver(MinimizationProblem(Jhat), {"tao_type": "lmvm", "tao_max_it": 1})
    with pytest.raises(TAOConvergenceError, match="after 1 iterations with reason: DIVERGED_MAX"):
        solver.solve()


@pytest.mark.parallel([2, 3])
@pytest.mark.parametrize("method", ["bqnls", "bnls"])
def test_what_one_rank_raises_ends_tao_on_all(method):
    comm = MPI.COMM_WORLD
    last = comm.size - 1
    Jhat, weights, *_ = fitted(comm)

    def callback(step, w):
        if step.iteration == 2 and comm.rank == last:
            raise KeyError("mine")

    kind, message = (KeyError, "mine") if comm.rank == last else (RuntimeError, "another rank")
    with pytest.raises(kind, match=message):
        femnn.fit(Jhat, method, callback=callback, progress=False)
    assert len(set(comm.allgather(weights.vector.tobytes()))) == 1

    def interrupt(step, w):
        if step.iteration == 1 and comm.rank == last:
            os.kill(os.getpid(), signal.SIGINT)

    assert femnn.fit(Jhat, method, callback=interrupt, progress=False).reason == "interrupted"
    assert femnn.fit(Jhat, method, gtol=1e-6, maxiter=300, progress=False).success
