"""What an optimiser costs: the law of ``demos/studies/nonlinear_poisson``, from the same start.

L-BFGS for 300 iterations, Gauss-Newton until it reaches the same loss, in 25 iterations at most.
Processor times.
"""

import time

import numpy as np
from firedrake import *
from firedrake.adjoint import Control, ReducedFunctional, continue_annotation, pause_annotation

import femnn
from demos.studies.nonlinear_poisson.__main__ import residual, truth


def problem(u, kappa):
    F, bc = residual(u, kappa)
    return F == 0, u, bc


def make(cells, n_stations):
    """The functional, the coefficient, and the law's error on the range of the data."""
    mesh = UnitSquareMesh(cells, cells)
    exact = Function(FunctionSpace(mesh, "P", 4))
    solve(*problem(exact, truth(exact)))
    at = femnn.Stations(mesh, np.random.default_rng(0).uniform(0, 1, (n_stations, 2)))
    data = femnn.Observations(at, np.asarray(at(exact)), std=np.sqrt(n_stations))
    net = femnn.MLP(1, 20, 20, 1, output="softplus", input_range=(0, 1), init="normal", seed=0)
    u = Function(FunctionSpace(mesh, "P", 2))
    kappa = femnn.NeuralCoefficient(net, u)
    continue_annotation()
    femnn.solve(*problem(u, kappa))
    Jhat = ReducedFunctional(data.misfit(u), Control(kappa.weights))
    pause_annotation()
    line = np.linspace(0, exact.dat.data_ro.max(), 1000)

    def error():
        law = truth(line)
        return np.linalg.norm(femnn.evaluate(net, line) - law) / np.linalg.norm(law)

    return Jhat, kappa.weights, error


def measure(repeats, cells=24, n_stations=2500, iterations=300):
    Jhat, weights, error = make(cells, n_stations)
    start, rows, target = weights.vector.copy(), {}, None
    settings = {
        "L-BFGS": {"maxiter": iterations, "options": {"maxcor": 60}},
        "gauss-newton": {"maxiter": 25},
    }
    for method, given in settings.items():
        weights.assign(start)
        Jhat(weights)
        began = time.process_time()
        result = femnn.fit(Jhat, method, target=target, progress=False, **given)
        rows[method] = {
            "loss": result.loss,
            "iterations": result.iterations,
            "evaluations": result.evaluations,
            "law error": error(),
            "seconds": time.process_time() - began,
        }
        target = result.loss
    return rows
