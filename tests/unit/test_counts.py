"""What a training counts, and trial steps at which Newton's method crawls."""

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *

import femnn
from femnn.tape.counts import GivenUp, Solves, at_most, counting


class Monitored:
    """A nonlinear diffusion; Newton's iterations as PETSc's monitor sees them."""

    def __init__(self, field=False):
        mesh = UnitSquareMesh(4, 4)
        V = FunctionSpace(mesh, "CG", 1)
        x, _ = SpatialCoordinate(mesh)
        u, v, f = Function(V), TestFunction(V), Function(V, name="f").assign(10.0)
        net = femnn.MLP(1, 4, 1, output="softplus", seed=1)
        kappa = femnn.NeuralCoefficient(net, u)
        F = kappa * inner(grad(u), grad(v)) * dx - f * v * dx
        problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, "on_boundary"))
        solver = femnn.NeuralVariationalSolver(problem)
        continue_annotation()
        solver.solve()
        J = femnn.assemble((u - x * (1 - x)) ** 2 * dx)
        J = J + femnn.assemble(1e-9 * inner(grad(f), grad(f)) * dx) if field else J
        pause_annotation()
        self.Jhat = ReducedFunctional(J, Control(f if field else kappa.weights))
        self.newton = 0
        solver.snes.setMonitor(self._note)

    def _note(self, snes, iteration, norm):
        self.newton += iteration > 0


@pytest.mark.parallel([1, 2, 3])
def test_the_solves_of_lbfgs():
    model = Monitored()
    result = femnn.fit(model.Jhat, maxiter=4, progress=False)
    solves = result.solves
    assert solves.forward - result.evaluations in (0, 1)  # once more where the best was not last
    assert solves.adjoint == result.evaluations
    assert solves.tangent == solves.hessian == 0
    assert model.newton > 4
    assert solves.linear == model.newton + solves.adjoint
    assert [s.solves.adjoint for s in result.history] == [s.evaluations for s in result.history]
    assert len(set(COMM_WORLD.allgather(str(solves)))) == 1


@pytest.mark.parallel([1, 2])
def test_a_matrix_is_a_direction_for_each_control():
    model = Monitored()
    n = len(model.Jhat.controls[0].control)
    result = femnn.fit(model.Jhat, "gauss-newton", maxiter=3, gtol=0.0, progress=False)
    assert result.solves.tangent == 3 * n
    assert result.solves.adjoint == result.evaluations
    assert result.solves.linear == model.newton + result.evaluations + 3 * n


def test_products_are_a_tangent_and_an_adjoint_or_a_second_order_adjoint():
    model = Monitored(field=True)
    options = {"maxcg": 3, "cgtol": 0.0}
    given = {"maxiter": 7, "gtol": 0.0, "progress": False, "options": options}
    result = femnn.fit(model.Jhat, "newton-cg", **given)
    solves = result.solves
    assert solves.tangent == 7 * 3
    assert solves.hessian == 2 * 3  # from the sixth iteration on
    assert solves.adjoint >= result.evaluations + 5 * 3
    assert solves.linear == model.newton + solves.adjoint + solves.tangent + solves.hessian
    assert "6 hessian" in str(result)


def test_counts_add_up_and_stand_in_each_other():
    with counting() as outer:
        with counting() as inner:
            Monitored().Jhat.derivative()
        Monitored().Jhat.derivative()
    assert outer.linear == 2 * inner.linear > 0
    assert inner + inner == outer
    assert str(Solves()) == "none"


class Crawling:
    """exp(a u) = 2 with a = 1 + 300 b: from u at b = 0, Newton's steps are as small as 1 / a.

    Water in dry soil does so (Gardner's law).  What is observed grows with a**5, so that the first
    step of Gauss and Newton's goes to b = 1, and the second one is the truth's way, a = 10.
    """

    def __init__(self):
        V = FunctionSpace(UnitSquareMesh(2, 2), "CG", 1)
        self.b = Constant(0.0)
        u, v = Function(V), TestFunction(V)
        kappa = femnn.NeuralCoefficient(femnn.MLP(1, 2, 1, output="softplus", seed=1), u)
        F = (exp((1 + 300 * self.b) * u) - 2) * v * dx
        F += 1e-6 * kappa * inner(grad(u), grad(v)) * dx
        continue_annotation()
        femnn.solve(F == 0, u, solver_parameters={"snes_max_it": 1000})
        J = femnn.assemble(0.5 * ((float(np.log(2)) / u) ** 5 - 1e5) ** 2 * dx)
        pause_annotation()
        self.Jhat = ReducedFunctional(J, Control(self.b))

    def fit(self, method, **options):
        return femnn.fit(self.Jhat, method, progress=False, gtol=1e3, **options)


@pytest.mark.parallel([1, 2, 3])
def test_a_step_that_crawls_is_given_up():
    patient = Crawling().fit("gauss-newton", patience=None)
    assert not patient.rejections
    model = Crawling()
    result = model.fit("gauss-newton")
    assert 1 + 300 * float(model.b) == pytest.approx(10.0, rel=1e-6)
    (first,) = result.rejections
    assert first.evaluation == 2
    assert first.reason.startswith("given up after 100 iterations of Newton's method")
    assert result.rejected == 1
    assert result.solves.linear < patient.solves.linear - 30


@pytest.mark.parametrize("method", ["L-BFGS", "Adam", "newton-cg"])
def test_every_method_goes_on_after_it(method):
    settings = {"learning_rate": 1.0} if method == "Adam" else {}
    result = Crawling().fit(method, maxiter=8, **settings)
    assert any("given up" in r.reason for r in result.rejections)
    assert result.iterations > 0
    assert np.isfinite(result.loss)


def test_the_start_may_take_long_and_so_may_what_is_usual():
    """Limits are for trials, and from what evaluations have taken so far."""
    model = Crawling()
    model.b.assign(1.0)
    result = model.fit("gauss-newton", maxiter=0)
    assert result.solves.linear > 100
    with at_most(2, "a test"), pytest.raises(GivenUp, match=r"after 2 iterations .* a test"):
        model.Jhat(Constant(0.0))
    assert model.Jhat(Constant(0.0)) == pytest.approx(0.5 * (1 - 1e5) ** 2, rel=1e-3)


def test_a_fixed_number_of_iterations_is_not_cut():
    V = FunctionSpace(UnitSquareMesh(2, 2), "CG", 1)
    u, v, c = Function(V), TestFunction(V), Constant(1.0)
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 2, 1, output="softplus", seed=1), u)
    F = (kappa * u - c) * v * dx
    fixed = {"snes_max_it": 3, "snes_convergence_test": "skip"}
    continue_annotation()
    femnn.solve(F == 0, u, solver_parameters=fixed)
    J = femnn.assemble(u**2 * dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(c))
    with at_most(2, "a test") as spent:
        value = Jhat(Constant(2.0))
    assert spent.used == 3
    assert value == pytest.approx(Jhat(Constant(2.0)), rel=1e-14)


def test_a_patience_that_means_nothing():
    with pytest.raises(ValueError, match=r"patience=0.5, wanted a finite number, 1 or more"):
        Crawling().fit("L-BFGS", patience=0.5)
