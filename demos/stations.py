"""Thirty wells, gaps and times between the steps: learn a law, and test it on wells held out.

``du/dt = div(k(u) grad u) + rain(t)`` on the unit square, u = 0 on one side.  The wells are read at
times of their own, a fifth of the readings are missing, and five wells are kept for the test.
``Observations`` knows the stations, the errors and the gaps; in the time loop ``observe(u, t)``
takes the model at the wells, and ``misfit()`` is what is minimised.  The scores say how large the
errors are at wells that the law has not seen, and how many readings lie within their own errors.
"""

import numpy as np
from firedrake import *
from firedrake.adjoint import *

import femnn

CELLS = 12
STEPS = 16
WELLS = 30
ITERATIONS = 60
SEED = 1
NOISE = 0.01  # standard deviation of a reading, in the unit of u


def truth(u):
    return 0.1 + 0.5 * u**2 / (0.2 + u**2)


def run(V, k, steps, *observers):
    """Step the model, and let observers take its initial state and each step."""
    u, last, v, t = Function(V), Function(V), TestFunction(V), Constant(0.0)
    rain = 1 + sin(2 * pi * t)
    F = steps * (u - last) * v * dx + k(u) * inner(grad(u), grad(v)) * dx - rain * v * dx
    problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, 1))
    solver = femnn.NeuralVariationalSolver(problem)
    for step in range(steps + 1):
        if step > 0:
            t.assign(step / steps)
            solver.solve()
            last.assign(u)
        for observe in observers:
            observe(u, step / steps)


mesh, random = UnitSquareMesh(CELLS, CELLS), np.random.default_rng(SEED)
names = [f"well {i}" for i in range(WELLS)]
wells = femnn.Stations(mesh, random.uniform(0.05, 1, (WELLS, 2)), names)
times = np.sort(random.uniform(0.05, 1, 25))
exact = femnn.Observations(wells, np.zeros((25, WELLS)), NOISE, times).start()
run(FunctionSpace(mesh, "P", 2), truth, STEPS, exact)
readings = exact.model + random.normal(0, NOISE, exact.model.shape)
readings[random.uniform(size=readings.shape) < 0.2] = np.nan

data = femnn.Observations(wells, readings, NOISE, times, units="m", name="head")
seen, unseen = data.split(names[:5])
net = femnn.MLP(1, 12, 12, 1, output="softplus", input_range=(0, float(np.nanmax(readings))))
V = FunctionSpace(mesh, "P", 1)

continue_annotation()
observe = seen.start()
run(V, lambda u: femnn.NeuralCoefficient(net, u), STEPS, observe)
Jhat = ReducedFunctional(observe.misfit() / len(seen), Control(femnn.Weights.of(net)))
pause_annotation()
femnn.fit(Jhat, maxiter=ITERATIONS)

observe, test = seen.start(), unseen.start()
run(V, lambda u: femnn.NeuralCoefficient(net, u), STEPS, observe, test)
scores = unseen.scores(test.model, std=0.0)
line = np.linspace(0, np.nanmax(readings), 500)
law_error = np.linalg.norm(femnn.evaluate(net, line) - truth(line)) / np.linalg.norm(truth(line))
numbers = {"law_error": law_error, "rmse": seen.scores(observe.model)["rmse", "all"]}
numbers |= {f"{name}, held out": scores[name, "all"] for name in scores}
ax = femnn.plot_observations(unseen, test.model, time_unit="d")
femnn.save_results("output/stations", numbers, figure=ax, networks={"k": net})
PETSc.Sys.Print(scores)
PETSc.Sys.Print(f"k(u), relative L2 error over the range of u: {law_error:.2%}")
