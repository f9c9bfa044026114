"""A law of two inputs, the unknown and a place, with and without interpolation to rounding."""

import numpy as np
from firedrake import *
from firedrake.adjoint import *

import femnn
from benchmarks.problem import OPTIONS, clock, discretise

WIDTHS = (30, 64)
SIZES = (64, 128)


class Model:
    """The benchmarks' problem with a law of u and y; at every point, or by few nodes."""

    def __init__(self, n, width, at_every_point):
        u, v, bc, observed = discretise(n)
        net = femnn.MLP(2, width, width, 1, output="softplus", seed=1)
        kappa = femnn.NeuralCoefficient(net, u, SpatialCoordinate(u.ufl_domain())[1])
        if at_every_point:
            kappa.evaluator.interpolant = lambda *_: None
        get_working_tape().clear_tape()
        continue_annotation()
        F = kappa * inner(grad(u), grad(v)) * dx - 10 * v * dx
        femnn.solve(F == 0, u, bc, solver_parameters=OPTIONS)
        J = femnn.assemble((u - observed) ** 2 * dx)
        pause_annotation()
        self.weights, self.evaluator = kappa.weights, kappa.evaluator
        self.Jhat = ReducedFunctional(J, Control(kappa.weights))

    def run(self, vector, direction):
        """Seconds of the functional, its gradient and a Hessian's action, and what these are."""
        forward, value = clock(self.Jhat, self.weights.like(vector))
        backward, gradient = clock(self.Jhat.derivative)
        second, action = clock(self.Jhat.hessian, self.weights.like(direction))
        return (forward, backward, second), (value, gradient.vector, action.vector)


def compare(n, width, repeats):
    """Least times of each, and the largest relative difference between the two."""
    least, results = {}, {}
    for at_every_point in (False, True):
        model = Model(n, width, at_every_point)
        size = len(model.weights.vector)
        random = np.random.default_rng(0)
        direction, times = random.standard_normal(size), []
        for i in range(repeats + 1):
            seconds, found = model.run((1 + 0.01 * i) * model.weights.vector, direction)
            times.append(seconds)
        least[at_every_point] = np.min(times[1:], axis=0)
        results[at_every_point] = found
    difference = max(
        float(np.linalg.norm(a - b) / np.linalg.norm(b))
        for a, b in zip(results[False], results[True], strict=True)
    )
    names = ("forward", "gradient", "Hessian action")
    ratios = dict(zip(names, (least[False] / least[True]).tolist(), strict=True))
    return {"cells": f"{n} x {n}", "width": width, **ratios, "difference": difference}


def measure(repeats):
    return [compare(n, width, repeats) for width in WIDTHS for n in SIZES]


def report(rows):
    print("\n(o) A law of u and y: its time by few nodes over that at every point")
    print(f"    {'cells':<12}{'network':<16}{'forward':>9}{'gradient':>10}{'Hessian action':>16}")
    for row in rows:
        network = f"2-{row['width']}-{row['width']}-1"
        print(
            f"    {row['cells']:<12}{network:<16}{row['forward']:>9.2f}{row['gradient']:>10.2f}"
            f"{row['Hessian action']:>16.2f}"
        )
    print(f"    they differ by {max(row['difference'] for row in rows):.0e}")
