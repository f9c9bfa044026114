"""Members on two ranks over all of them on one: gradients and Gauss-Newton products.

Two members are the problem of ``benchmarks.problem`` with sources of their own; four are tests of
the tomography study.  Run under ``mpiexec -n 2`` as a module it prints JSON.
"""

import json
import sys
from functools import cache, partial

import numpy as np
from firedrake import *
from firedrake.adjoint import *
from mpi4py import MPI

import femnn
from benchmarks.problem import DEGREE, OPTIONS, network
from benchmarks.speedup import Compared, run_on_ranks
from demos.studies.tomography.aquifer import NOISE, campaign, make_mesh
from demos.studies.tomography.inversion import heads
from demos.studies.tomography.model import Site, read_truth
from demos.studies.tomography.unknowns import NetworkAquifer
from femnn.tape.columns import gauss_newton_matrix
from femnn.tape.curvature import gauss_newton_product

SOURCES = (10.0, 9.0)


def two_sources(n, comm):
    net = network()

    def build(source, comm):
        V = FunctionSpace(UnitSquareMesh(n, n, comm=comm), "CG", 1)
        u, v = Function(V), TestFunction(V)
        kappa = femnn.NeuralCoefficient(net, u, degree=DEGREE)
        F = kappa * inner(grad(u), grad(v)) * dx - source * v * dx
        bc = DirichletBC(V, 0, "on_boundary")
        femnn.solve(F == 0, u, bc, solver_parameters=OPTIONS)
        return femnn.assemble((u - 1) ** 2 * dx)

    return femnn.ensemble(build, SOURCES, [net], comm=comm)


@cache
def pumping_tests():
    """Three tests and the state without pumping; readings are those of a coarse mesh."""
    found = campaign(n_tests=3, n_wells=12, seed=0)
    read_truth(found, (6, 6), seed=0)
    return found


def tomography(cells, comm, layers=6):
    found, aquifer = pumping_tests(), NetworkAquifer(12, seed=0)

    def build(test, comm):
        site = Site(make_mesh(cells, layers, comm))
        ports = femnn.Stations(site.mesh, found.ports)
        data = femnn.Observations(ports, found.readings[test], NOISE)
        return data.misfit(heads(aquifer, site, test))

    return femnn.ensemble(build, found.tests, aquifer.controls, comm=comm)


PROBLEMS = {"two sources": two_sources, "tomography": tomography}


def gradient(Jhat, at):
    """The gradient at other values of the controls, after the loss there."""
    Jhat(at(Jhat))
    return np.concatenate([part.vector for part in Jhat.derivative()])


def action(Jhat, at):
    """The product with a direction."""
    product = gauss_newton_product(Jhat.functional, Jhat.controls, at(Jhat), Jhat.tape)
    return np.concatenate([part.vector for part in product])


def matrix(Jhat, at):
    """All of it, as ``fit`` takes it for few weights."""
    return gauss_newton_matrix(Jhat.functional, Jhat.controls, Jhat.tape)


WORK = {
    "two sources": {"gradient": gradient, "Gauss-Newton action": action},
    "tomography": {
        "gradient": gradient,
        "Gauss-Newton action": action,
        "Gauss-Newton matrix": matrix,
    },
}


def values_at(step, Jhat):
    """The controls' values as an optimiser visits them: each a small step from the last."""
    random = np.random.default_rng(step)
    return [
        c.control.like(c.control.vector + 1e-3 * random.standard_normal(len(c.control)))
        for c in Jhat.controls
    ]


def compare(problem, n, repeats):
    """Times of all work by all ways, and by how much gradients differ."""
    compared = Compared(partial(PROBLEMS[problem], n))
    error = 0.0
    for i in range(repeats + 1):
        for name, work in WORK[problem].items():
            found = compared.measure(
                name, lambda Jhat, work=work, i=i: work(Jhat, partial(values_at, i))
            )
            if name == "gradient" and "one" in found:
                difference = np.linalg.norm(found["ranks"] - found["one"])
                error = max(error, difference / np.linalg.norm(found["one"]))
        if i == 0:
            compared.forget()
    row = {"problem": problem, "cells": n, "gradient error": float(error)}
    return row | {"work": compared.report()}


def measure(repeats, cases=(("two sources", 64), ("two sources", 128), ("tomography", 16))):
    """Each case in processes of its own."""
    return [run_on_ranks(2, "ensembles", problem, n, repeats) for problem, n in cases]


def report(rows):
    """Print what was measured."""
    print(
        "\n(j) Members on two ranks over all on one, times faster (1.9 is wanted), and two copies "
        "at once"
    )
    for row in rows:
        print(
            f"    {row['problem']}, {row['cells']} cells along a side; gradients differ by "
            f"{row['gradient error']:.0e}"
        )
        for name, found in row["work"].items():
            print(
                f"      {name:<22}{found['times faster']:>6.2f}, copies {found['copies']:.2f}"
                f"{1e3 * found['seconds']['one']:>8.0f} ms on one"
            )


def main(problem, n, repeats):
    row = compare(problem, int(n), int(repeats))
    if MPI.COMM_WORLD.rank == 0:
        print(json.dumps(row))


if __name__ == "__main__":
    main(*sys.argv[1:])
