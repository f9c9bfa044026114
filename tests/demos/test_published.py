"""The published problems at reduced size: accuracy, and agreement with the paper's own method."""

from dataclasses import replace

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *

import femnn
from demos.published import (
    calderon,
    convergence,
    heat,
    heat_discontinuous,
    heat_model,
    noise,
    partial_observation,
)
from demos.published.methods import Budget, Hybrid, WrittenOut
from demos.published.poisson import Poisson, network

PROBLEMS = (convergence, noise, partial_observation, calderon, heat, heat_discontinuous)


def trained(model, net, problem, budget):
    """Femnn's training of a model, and the errors after it."""
    method = Hybrid(net, problem.mesh)
    method.record(model)
    result = method.train(budget)
    method.weights.assign(np.array(result.weights))
    return result, problem.errors(net)


def losses(method, model, iterations):
    """The losses of a training."""
    method.record(model)
    return np.array(method.train(Budget(iterations)).history)


def models():
    """For each kind of model: the model, its network, its mesh."""
    convergent = Poisson(4, convergence.truth)
    yield "convergence", convergence.misfit(convergent), network(2), convergent.mesh
    noisy = Poisson(4, noise.truth)
    added = noise.noise(noisy, noise.SETTINGS["reduced"])
    yield "noise", noise.misfit(noisy, added, 1e-4), network(3), noisy.mesh
    flux = calderon.Calderon(4, 8)
    yield "calderon", flux.model, network(1), flux.mesh
    coarse = replace(heat.SETTINGS["reduced"], cells=10, step=0.02, data_step=2e-3).model()
    yield "heat", coarse.model, heat_model.network(1), coarse.mesh


@pytest.mark.parametrize("name", ["convergence", "noise", "calderon", "heat"])
def test_same_path_as_the_network_in_ufl(name):
    """From the same weights, L-BFGS sees the same losses, to rounding and what it makes of it."""
    ((model, net, mesh),) = [parts for found, *parts in models() if found == name]
    ours = losses(Hybrid(net, mesh), model, 4)
    femnn.Weights.of(net).assign(Hybrid(net, mesh).first)
    theirs = losses(WrittenOut(net_at(net, model, mesh), mesh), model, 4)
    assert len(ours) == 5
    assert ours[-1] < ours[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
