"""Peak memory and time of a gradient over many time steps, by schedule.

Run as a module with a schedule's name and a number of steps it measures one and prints JSON.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
from checkpoint_schedules import (
    MultistageCheckpointSchedule,
    Revolve,
    SingleDiskStorageSchedule,
    SingleMemoryStorageSchedule,
)
from firedrake import *
from firedrake.adjoint import *

import femnn
from benchmarks.problem import clock, run_module

CELLS = 10000  # of an interval: large fields, cheap solves
STEPS = (50, 100, 200, 400)
SCHEDULES = {
    "plain tape": None,
    "SingleMemoryStorage": lambda n: SingleMemoryStorageSchedule(),
    "SingleDiskStorage": lambda n: SingleDiskStorageSchedule(),
    "Revolve(n, 10)": lambda n: Revolve(n, 10),
    "Multistage(n, 5, 10)": lambda n: MultistageCheckpointSchedule(n, 5, 10),
}


class Heat:
    """An implicit diffusivity, an explicit source of the last time level."""

    def __init__(self, cells, steps, schedule=None):
        tape = get_working_tape()
        tape.clear_tape()
        if schedule is not None:
            tape = femnn.enable_checkpointing(schedule)
        continue_annotation()
        mesh = UnitIntervalMesh(cells)
        V = FunctionSpace(mesh, "CG", 1)
        (x,) = SpatialCoordinate(mesh)
        u, un, v = Function(V, name="u"), Function(V, name="un"), TestFunction(V)
        un.interpolate(sin(pi * x))
        u.assign(un)
        kappa = femnn.NeuralCoefficient(_law(1, "softplus"), u, degree=4)
        source = femnn.NeuralCoefficient(_law(2, None), un, x, degree=4)
        F = (u - un) / 1e-3 * v * dx + kappa * inner(grad(u), grad(v)) * dx - source * v * dx
        problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, "on_boundary"))
        solver = femnn.NeuralVariationalSolver(problem, warm_start=False)
        J = 0
        for _ in tape.timestepper(iter(range(steps))):
            solver.solve()
            un.assign(u)
            J += femnn.assemble((u - x) ** 2 * dx)
        pause_annotation()
        self.weights = kappa.weights
        self.Jhat = ReducedFunctional(J, Control(kappa.weights), tape=tape)

    def gradient(self, factor):
        self.Jhat(self.weights.like(factor * self.weights.vector))
        return self.Jhat.derivative().vector


def _law(inputs, output):
    return femnn.MLP(inputs, 8, 1, output=output, seed=inputs)


def measure():
    """One run in a process of its own for each schedule and number of steps."""
    rows = []
    for steps in STEPS:
        runs = {name: json.loads(run_module("memory", name, steps)) for name in SCHEDULES}
        expected = np.array(runs["plain tape"]["gradient"])
        for name, run in runs.items():
            error = np.linalg.norm(np.array(run.pop("gradient")) - expected)
            error /= np.linalg.norm(expected)
            slower = run["seconds"] / runs["plain tape"]["seconds"]
            rows.append({"schedule": name, "steps": steps, **run, "error": error, "time": slower})
    return rows


def _status(field):
    """A figure of this process's memory in MiB."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", text).group(1)) / 1024


def main(name, steps):
    make = SCHEDULES[name]
    Heat(CELLS, 3).gradient(1.0)  # what is compiled and kept once is not counted
    get_working_tape().clear_tape()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    heat = Heat(CELLS, steps, None if make is None else make(steps))
    recording = _status("VmHWM") - before
    heat.gradient(1.01)
    seconds, gradient = clock(heat.gradient, 1.02)
    print(
        json.dumps(
            {
                "recording": recording,
                "memory": _status("VmHWM") - before,
                "seconds": seconds,
                "gradient": gradient.tolist(),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
