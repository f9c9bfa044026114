"""Posteriors of ensembles: those of all models on one tape, on any number of ranks."""

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *
from mpi4py import MPI

import femnn
from femnn.inference.terms import Terms
from femnn.parallel import on_rank_zero

SOURCES = (1.0, 2.0, 3.0)
NOISE = 0.02


def truth(source, x):
    return source * x * (2 - x) / (1 + source)


def record(law, source, comm, scale=None, loss=None):
    """Diffusion with the law, and its misfit to what four stations say."""
    mesh = UnitIntervalMesh(8, comm=comm)
    V = FunctionSpace(mesh, "CG", 1)
    u, v = Function(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(law, u)
    F = kappa * inner(grad(u), grad(v)) * dx - source * v * dx
    femnn.solve(F == 0, u, DirichletBC(V, 0, 1))
    x = np.array([0.2, 0.45, 0.7, 0.95])
    rough = 1 + NOISE * np.random.default_rng(int(source)).standard_normal(len(x))
    options = {"std": NOISE} if scale is None else {"scale": scale}
    data = femnn.Observations(
        femnn.Stations(mesh, x[:, None]), rough * truth(source, x), loss=loss, **options
    )
    return data.misfit(u)


def law_and_prior():
    law = femnn.MLP(1, 4, 1, output="softplus", seed=1)
    return law, femnn.GaussianPrior(femnn.Weights.of(law), 1.0)


def as_ensemble(scale=None, loss=None, comm=MPI.COMM_WORLD):
    law, prior = law_and_prior()
    continue_annotation()
    Jhat = femnn.ensemble(
        lambda source, comm: record(law, source, comm, scale, loss), SOURCES, law, comm=comm
    )
    J = Jhat.functional + prior.energy()
    pause_annotation()
    return ReducedFunctional(J, Jhat.controls), law


def on_one_tape(scale=None):
    """One of its own, without the ensemble."""
    law, prior = law_and_prior()
    with set_working_tape(Tape()):
        continue_annotation()
        misfits = [record(law, source, MPI.COMM_SELF, scale) for source in SOURCES]
        J = sum(misfits[1:], misfits[0]) + prior.energy()
        pause_annotation()
        return ReducedFunctional(J, Control(femnn.Weights.of(law))), law


def fitted(Jhat):
    femnn.fit(Jhat, "gauss-newton", maxiter=30, progress=False)
    return Jhat


def in_numbers(posterior, law):
    band = posterior.law(law, np.linspace(0, 1, 7))
    told = (posterior.n_data, posterior.chi_squared, posterior.log_evidence)
    return [*told, posterior.effective_parameters, *band.mean, *band.std]


def posteriors(Jhat, law):
    """By all directions, and by a few."""
    fitted(Jhat)
    return [in_numbers(femnn.laplace(Jhat, rank=rank), law) for rank in (None, 6)]


@pytest.mark.parallel([1, 2, 3])
def test_a_posterior_is_that_of_one_tape():
    found = posteriors(*as_ensemble())
    expected = on_rank_zero(MPI.COMM_WORLD, lambda: posteriors(*on_one_tape()))
    assert [numbers[0] for numbers in found] == [12, 12]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)


def by_evidence(record_all):
    """With a scale, which is estimated: that, the history and the posterior's numbers."""
    noise = Constant(1e-2)
    Jhat, law = record_all(scale=noise)
    found = femnn.fit_with_evidence(Jhat, rounds=2, progress=False)
    return float(noise), found.history, in_numbers(found.posterior, law)


@pytest.mark.parallel([1, 2, 3])
def test_evidence_finds_noise_and_precisions():
    """The scale is on the tape of each member."""
    noise, history, numbers = by_evidence(as_ensemble)
    same_noise, same_history, same_numbers = on_rank_zero(
        MPI.COMM_WORLD, lambda: by_evidence(on_one_tape)
    )
    assert abs(noise - 1e-2) > 1e-4, "nothing was estimated"
    assert noise == pytest.approx(same_noise, rel=1e-4)
    np.testing.assert_allclose(history, same_history, rtol=1e-4)
    np.testing.assert_allclose(numbers, same_numbers, rtol=1e-3)


@pytest.mark.parallel([1, 2])
def test_chains():
    posterior = femnn.laplace(fitted(as_ensemble()[0]))
    draws = femnn.chains(posterior, 20, n_chains=2)
    assert np.isfinite(draws.log_density).all()
    assert draws.accepted > 0


def loss_of(build, **options):
    law, prior = law_and_prior()
    continue_annotation()
    Jhat = femnn.ensemble(lambda source, comm: build(law, source, comm), SOURCES, law, **options)
    J = Jhat.functional + prior.energy()
    pause_annotation()
    return ReducedFunctional(J, Jhat.controls)


def penalised(law, source, comm):
    return record(law, source, comm) + femnn.Weights.of(law).squared_norm()


def doubled(law, source, comm):
    return 2.0 * record(law, source, comm)


def without_data(law, source, comm):
    V = FunctionSpace(UnitIntervalMesh(2, comm=comm), "CG", 1)
    return femnn.assemble(femnn.NeuralCoefficient(law, Function(V)) ** 2 * dx)


@pytest.mark.parallel([1, 2])
@pytest.mark.parametrize(
    ("build", "says"),
    [
        (penalised, "has another term, .* outside of build"),
        (doubled, "has 2 times a sum of squares: leave out the factor"),
        (without_data, "has no misfit of Observations"),
    ],
)
def test_a_member_that_is_no_likelihood(build, says):
    with pytest.raises(
        (ValueError, RuntimeError), match=f"loss of member . of the ensemble {says}"
    ):
        femnn.laplace(loss_of(build))


def test_wrong_use():
    with pytest.raises(ValueError, match="leave out mean=True"):
        femnn.laplace(loss_of(record, mean=True))
    Jhat, law = as_ensemble(loss=femnn.Huber(1.0))
    with pytest.raises(ValueError, match="a misfit has the loss Huber"):
        femnn.fit_with_evidence(Jhat)
    Jhat, law = as_ensemble()
    continue_annotation()
    value = femnn.Weights.of(law).squared_norm()
    pause_annotation()
    with pytest.raises(ValueError, match="data_worth: the functional has an ensemble"):
        femnn.laplace(fitted(Jhat)).data_worth(value)


@pytest.mark.parallel([1, 3])
def test_a_scale_that_build_makes():
    """With a rank for each member each rank knows one scale only."""
    Jhat = loss_of(lambda law, s, comm: record(law, s, comm, Constant(0.1)))
    assert femnn.laplace(fitted(Jhat)).n_data == 12
    with pytest.raises(ValueError, match="different scales, or one that build makes"):
        femnn.fit_with_evidence(Jhat, progress=False)


@pytest.mark.parallel([1, 2])
def test_a_member_without_controls():
    def build(law, source, comm):
        return record(law if source < 3 else frozen, source, comm)

    frozen = law_and_prior()[0].requires_grad_(False)
    Jhat = loss_of(build)
    with pytest.raises((ValueError, RuntimeError), match="depends on none of the controls"):
        femnn.laplace(Jhat)
    assert femnn.fit(Jhat, "gauss-newton", maxiter=2, progress=False).loss < Jhat.functional


@pytest.mark.parallel(2)
def test_the_evidence_is_known_on_each_rank():
    posterior = femnn.laplace(fitted(as_ensemble()[0]))
    if MPI.COMM_WORLD.rank == 0:
        assert np.isfinite(posterior.log_evidence)


def test_derivatives_after_a_look():
    """What was looked at of the members' tapes is not taken for what the functional has left."""
    Jhat, law = as_ensemble()
    weights = femnn.Weights.of(law)
    direction = weights.like(np.cos(weights.vector))
    Jhat.derivative()
    expected = Jhat.hessian([direction])[0].vector
    Jhat.derivative()
    Terms(Jhat, "test")
    # The members are run again, from their last solutions.
    np.testing.assert_allclose(Jhat.hessian([direction])[0].vector, expected, rtol=1e-6)


def test_a_batch_is_no_posterior():
    law, prior = law_and_prior()
    continue_annotation()
    members = femnn.ensemble(lambda s, comm: record(law, s, comm), SOURCES, law)
    Jhat = ReducedFunctional(members.functional + prior.energy(), members.controls)
    pause_annotation()
    with members.batch([0]), pytest.raises(ValueError, match="a batch of the ensemble"):
        femnn.laplace(Jhat)


@pytest.mark.parallel(3)
def test_a_group_without_member_does_not_know_the_scale():
    law, prior = law_and_prior()
    noise = Constant(1e-2)
    continue_annotation()
    Jhat = femnn.ensemble(lambda s, comm: record(law, s, comm, noise), SOURCES[:2], law)
    J = Jhat.functional + prior.energy()
    pause_annotation()
    with pytest.raises(ValueError, match="a group of ranks has no member"):
        femnn.fit_with_evidence(ReducedFunctional(J, Jhat.controls), progress=False)
