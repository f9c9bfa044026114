"""Splitting against a network inside Newton's method: a mild and a stiff reaction.

u_t = 0.1 lap u + r u (1 - u) (u - 0.3) on 48 x 48 cells, P2: r = 5 is mild, r = 500 is stiff.
Both schemes are of second order: the midpoint rule with the network at the middle, and Strang
splitting with the midpoint rule for diffusion and Runge-Kutta steps for the network's part,
explicit where that is mild and L-stable where it is stiff.
"""

import numpy as np
import torch
from firedrake import *

import femnn

CASES = {"mild": (5.0, 0.01, "heun"), "stiff": (500.0, 0.005, "sdirk2")}


class Reaction(torch.nn.Module):
    """A bistable reaction, with a network's cost: an exact law plus a net of zero weight."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate
        self.net = femnn.MLP(1, 30, 30, 1, seed=1)

    def forward(self, x):
        return self.rate * x * (1 - x) * (x - 0.3) + 0 * self.net(x)


def schemes(rate, dt, method):
    mesh = UnitSquareMesh(48, 48)
    V = FunctionSpace(mesh, "CG", 2)
    x, y = SpatialCoordinate(mesh)
    net = Reaction(rate)
    made = []
    for split in (False, True):
        u, un, v = Function(V), Function(V), TestFunction(V)
        u.interpolate(0.5 + 0.45 * cos(3 * np.pi * x) * cos(2 * np.pi * y))
        un.assign(u)
        length = Constant(dt)
        middle = (u + un) / 2
        F = (u - un) / length * v * dx + 0.1 * inner(grad(middle), grad(v)) * dx
        if not split:
            F -= femnn.NeuralCoefficient(net, middle, degree=4) * v * dx
        solver = femnn.NeuralVariationalSolver(
            femnn.NeuralVariationalProblem(F, u), solver_parameters={"snes_rtol": 1e-10}
        )
        if split:
            made.append(femnn.StrangSplitting(solver, un, net, dt=length, method=method))
        else:
            made.append(femnn.ImplicitStep(solver, un, dt=length))
    return made


def measure(repeats):
    rows = {}
    for name, case in CASES.items():
        comparison = femnn.compare_schemes(*schemes(*case), steps=repeats)
        target = min(c.error for c in comparison.costs)
        rows[name] = {
            "table": str(comparison),
            "seconds at equal error": [c.seconds_for(target) for c in comparison.costs],
        }
    return rows
