"""Two members on two ranks against both on one: a gradient and a Gauss-Newton action.

Each member is the problem of ``benchmarks.problem`` with a source of its own.  Both ways run in one
process after the other, call by call, so that what else the machine does is the same for both;
rank 1 sleeps while rank 0 has both members.  Where ranks have no core of their own, the clock says
little, and the processor's time what each has to do.  Prints JSON; run under ``mpiexec -n 2``.
"""

import json
import os
import subprocess
import sys
import time

import numpy as np
from firedrake import *
from firedrake.adjoint import *
from mpi4py import MPI

import femnn
from benchmarks.problem import DEGREE, OPTIONS, network, other_weights
from femnn.tape.curvature import gauss_newton_product

SOURCES = (10.0, 9.0)


def functional(n, comm):
    net = network()

    def build(source, comm):
        V = FunctionSpace(UnitSquareMesh(n, n, comm=comm), "CG", 1)
        u, v = Function(V), TestFunction(V)
        kappa = femnn.NeuralCoefficient(net, u, degree=DEGREE)
        F = kappa * inner(grad(u), grad(v)) * dx - source * v * dx
        bc = DirichletBC(V, 0, "on_boundary")
        femnn.solve(F == 0, u, bc, solver_parameters=OPTIONS)
        return femnn.assemble((u - 1) ** 2 * dx)

    return femnn.ensemble(build, SOURCES, net, comm=comm)


class Work:
    """An ensemble's gradient and Gauss-Newton action at other weights each time."""

    def __init__(self, n, comm):
        self.Jhat, self.comm = functional(n, comm), comm
        self.weights = femnn.Weights.of(network())

    def gradient(self, w):
        self.Jhat(self.weights.like(w))
        return self.Jhat.derivative().vector

    def action(self, w):
        model, direction = self.Jhat, self.weights.like(np.cos(w))
        return gauss_newton_product(model.functional, model.controls, [direction], model.tape)

    def measure(self, what, w):
        """Seconds of the clock, and of the processor on the rank that waits least for others."""
        self.comm.barrier()
        wall, own = time.perf_counter(), time.process_time()
        result = getattr(self, what)(w)
        own = self.comm.allreduce(time.process_time() - own, op=MPI.MIN)  # waiting is busy
        return [time.perf_counter() - wall, own], result


def wait_for_rank_zero():
    """Wait without using a processor."""
    request = MPI.COMM_WORLD.Ibarrier()
    while not request.Test():
        time.sleep(1e-3)


def compare(n, repeats):
    world = MPI.COMM_WORLD
    together, alone = Work(n, world), Work(n, MPI.COMM_SELF) if world.rank == 0 else None
    wait_for_rank_zero()
    found = {(what, who): [] for what in ("gradient", "action") for who in ("two", "one")}
    error = 0.0
    for i, w in enumerate(other_weights(repeats + 1, len(together.weights))):
        for what in ("gradient", "action"):
            seconds, result = together.measure(what, w)
            found[what, "two"].append(seconds)
            if alone is not None:
                seconds, expected = alone.measure(what, w)
                found[what, "one"].append(seconds)
                if what == "gradient":
                    difference = np.linalg.norm(result - expected) / np.linalg.norm(expected)
                    error = max(error, difference)
            wait_for_rank_zero()
        if i == 0:
            for times in found.values():
                times.clear()
    return found, error


def main(n, repeats):
    found, error = compare(n, repeats)
    if MPI.COMM_WORLD.rank:
        return
    best = {key: np.min(times, axis=0).tolist() for key, times in found.items()}
    row = {"cells": f"{n} x {n}", "gradient error": error}
    for what in ("gradient", "action"):
        one, two = best[what, "one"], best[what, "two"]
        row[what] = {"clock": one[0] / two[0], "processor": one[1] / two[1], "seconds": one}
    print(json.dumps(row))


def measure(repeats, sizes=(64, 128)):
    """Each size in processes of its own."""
    # This process has started MPI itself, which mpiexec must not take for its own.
    ours = ("OMPI_COMM", "OMPI_UNIVERSE", "OMPI_MCA_orte", "OMPI_MCA_ess", "PMIX_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    rows = []
    for n in sizes:
        command = ["mpiexec", "-n", "2", sys.executable, "-m", "benchmarks.ensembles"]
        done = subprocess.run(
            [*command, str(n), str(repeats)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        rows.append(json.loads(done.stdout.strip().splitlines()[-1]))
    return rows


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
