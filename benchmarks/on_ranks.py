"""What a solve and its derivatives cost on the ranks that run this; see ``benchmarks.scaling``.

Run under ``mpiexec`` as a module, with what is asked for, it prints JSON.
"""

import json
import sys
import time

import numpy as np
from firedrake import *
from firedrake.adjoint import *
from firedrake.petsc import PETSc
from mpi4py import MPI

import femnn
from benchmarks.communication import counted
from benchmarks.problem import DEGREE, network, other_weights, peak_memory
from benchmarks.speedup import wait_for_all
from femnn.tape.curvature import gauss_newton_product
from femnn.training.loss import Loss

# The tangent is not symmetric: a method without transposes or symmetry asked of it, from PETSc
# itself, so that its messages are in PETSc's log.
OPTIONS = {
    "snes_rtol": 1e-8,
    "ksp_type": "gmres",
    "ksp_rtol": 1e-9,
    "pc_type": "gamg",
    "mat_type": "aij",
}


class Model:
    """-div(kappa(u) grad u) = f with readings at stations, recorded; f is a field."""

    def __init__(self, n, comm, stations):
        get_working_tape().clear_tape()
        mesh = UnitSquareMesh(n, n, comm=comm)
        V = FunctionSpace(mesh, "CG", 1)
        u, v = Function(V, name="u"), TestFunction(V)
        self.source = Function(V, name="f").assign(10.0)
        points = np.random.default_rng(0).uniform(0.02, 0.98, (stations, 2))
        data = femnn.Observations(femnn.Stations(mesh, points), np.full(stations, 0.4), std=0.1)
        kappa = femnn.NeuralCoefficient(network(), u, degree=DEGREE)
        F = kappa * inner(grad(u), grad(v)) * dx - self.source * v * dx
        problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, "on_boundary"))
        continue_annotation()
        femnn.NeuralVariationalSolver(problem, solver_parameters=OPTIONS).solve()
        J = data.misfit(u)
        pause_annotation()
        self.comm, self.kappa, self.weights = comm, kappa, kappa.weights
        self.nodes, self.points = int(V.dof_dset.size), kappa.map.load().shape[0]
        self.Jhat = ReducedFunctional(J, Control(kappa.weights))
        self.of_field = ReducedFunctional(J, Control(self.source))

    def forward(self, w):
        return self.Jhat(self.weights.like(w))

    def gradient(self, w):
        return self.Jhat.derivative().vector

    def hessian_action(self, w):
        return self.Jhat.hessian(self.weights.like(np.cos(w))).vector

    def gauss_newton_action(self, w):
        J = self.Jhat
        direction = [self.weights.like(np.cos(w))]
        (product,) = gauss_newton_product(J.functional, J.controls, direction, J.tape)
        return product.vector


WORK = {
    "forward": Model.forward,
    "gradient": Model.gradient,
    "Hessian action": Model.hessian_action,
    "Gauss-Newton action": Model.gauss_newton_action,
}


def counts(name, function, comm):
    """What one call communicates: on the rank that does most, and in all."""
    event, cycle = PETSc.Log.Event(f"femnn {name}"), PETSc.Log.Event("PCApply")
    cycles = cycle.getPerfInfo()["count"]
    with counted() as own:
        event.begin()
        function()
        event.end()
    info = event.getPerfInfo()
    messages, sent = info["numMessages"], info["messageLength"]
    return {
        "messages": comm.allreduce(messages, op=MPI.MAX),
        "bytes": comm.allreduce(sent, op=MPI.MAX),
        "messages of all ranks": comm.allreduce(messages),
        "bytes of all ranks": comm.allreduce(sent),
        "reductions": info["numReductions"],
        "cycles": cycle.getPerfInfo()["count"] - cycles,
        "own calls": sum(own["calls"].values()),
        "own bytes": sum(own["bytes"].values()),
        "own by name": dict(own["calls"]),
    }


def of_fields(model, comm):
    """What ``fit`` and its checkpoints communicate for a field: gathered arrays."""
    loss = Loss(model.of_field)
    x = loss.start().vector
    return {
        "fit's evaluation, a field": counts("evaluation", lambda: loss(1.01 * x), comm),
        "checkpoint's order, a field": counts("order", lambda: loss.controls.order, comm),
    }


def count(n, stations):
    """All counts on the ranks that run this.  Collective."""
    comm = MPI.COMM_WORLD
    PETSc.Log.begin()
    before = peak_memory()
    model = Model(n, comm, stations)
    built = peak_memory()
    weights = other_weights(2, len(model.weights))
    rows, found = {}, {}
    for i, w in enumerate(weights):  # at first what is made once is made
        for name, work in WORK.items():
            if i == 0:
                found[name] = work(model, w)
            else:
                rows[name] = counts(name, lambda work=work, w=w: work(model, w), comm)
    rows |= of_fields(model, comm)
    memory = np.array(comm.allgather([before, built - before, peak_memory() - before]))
    points = comm.allgather(model.points)
    return {
        "ranks": comm.size,
        "cells": f"{n} x {n}",
        "nodes": int(comm.allreduce(model.nodes)),
        "points": [min(points), max(points)],
        "memory": dict(zip(("before", "model", "all"), memory.max(0).tolist(), strict=True)),
        "counts": rows,
        "vectors": {k: found[k].tolist() for k in ("gradient", "Hessian action")},
    }


def mesh_memory(n, levels=2):
    """Growth of the peak memory of each rank in MiB: a mesh, and the same by refinement."""
    comm, found = MPI.COMM_WORLD, {}
    makers = {
        "refined": lambda: MeshHierarchy(UnitSquareMesh(n >> levels, n >> levels), levels)[-1],
        "at once": lambda: UnitSquareMesh(n, n),
    }
    FunctionSpace(UnitSquareMesh(4, 4), "CG", 1)
    for name, make in makers.items():
        before = peak_memory()
        space = FunctionSpace(make(), "CG", 1)
        found[name] = comm.allgather(peak_memory() - before)
        found["cells"] = int(comm.allreduce(space.mesh().cell_set.size))
    return found


def latency(comm, repeats=2000):
    """Seconds of a reduction of one number, at best."""
    one, total, best = np.ones(1), np.empty(1), np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        comm.Allreduce(one, total)
        best = min(best, time.perf_counter() - start)
    return best


def clocks(sizes, repeats, stations):
    """Seconds of each piece of work, at best, on each number of ranks; idle ranks sleep.

    Parameters
    ----------
    sizes
        Cells along a side, and numbers of ranks, ``(n, ranks)``.
    """
    world = MPI.COMM_WORLD
    rows = []
    for n, ranks in sizes:
        comm = world.Split(0 if world.rank < ranks else 1)
        row = {"cells": f"{n} x {n}", "ranks": ranks}
        if world.rank < ranks:
            row |= _best(Model(n, comm, stations), repeats)
        wait_for_all(world)
        rows.append(row)
    return {"rows": rows, "latency": latency(world)}


def _best(model, repeats):
    """Seconds by the clock and of the processor, of the rank that waits least for others."""
    found = {name: [] for name in WORK}
    for w in other_weights(repeats + 1, len(model.weights)):
        for name, work in WORK.items():
            model.comm.barrier()
            wall, own = time.perf_counter(), time.process_time()
            work(model, w)
            own = model.comm.allreduce(time.process_time() - own, op=MPI.MIN)
            found[name].append([time.perf_counter() - wall, own])
    best = {name: np.min(times[1:], axis=0).tolist() for name, times in found.items()}
    return {"clock": {k: v[0] for k, v in best.items()}, "points": model.points} | {
        "processor": {k: v[1] for k, v in best.items()}
    }


def main(what, *args):
    if what == "count":
        result = count(*map(int, args))
    elif what == "mesh":
        result = mesh_memory(int(args[0]))
    else:
        result = clocks(json.loads(args[0]), *map(int, args[1:]))
    if MPI.COMM_WORLD.rank == 0:
        print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
