"""Learn two laws at once: how the resistance of two layers of rock depends on the pressure.

Flow in mixed form, flux sigma and pressure p: ``r(p) sigma + grad p = 0``, ``div sigma = 10``, p =
0 on all sides.  The lower and the upper half have laws of their own, a network for each; both
stand in one form and are trained by one functional, with a control for each.  The pressure is seen
in every cell; it comes from the equation in p alone and cubic elements.
"""

import matplotlib.pyplot as plt
import numpy as np
from firedrake import *
from firedrake.adjoint import *

import femnn

CELLS = 20
ITERATIONS = 100
ROOM = {"mat_mumps_icntl_14": 200}  # for the pivots of a saddle point


truths = (lambda p: 1 / (1 + 2 * p**2)), (lambda p: 1 + p)  # of the lower and the upper layer

mesh = UnitSquareMesh(CELLS, CELLS)
lower = conditional(SpatialCoordinate(mesh)[1] < 0.5, 1, 0)
layers = lower, 1 - lower
P = FunctionSpace(mesh, "DG", 0)

exact = Function(FunctionSpace(mesh, "P", 3))
v = TestFunction(exact.function_space())
resistance = lower * truths[0](exact) + (1 - lower) * truths[1](exact)
F = inner(grad(exact) / resistance, grad(v)) * dx(degree=8) - 10 * v * dx
solve(F == 0, exact, bcs=DirichletBC(exact.function_space(), 0, "on_boundary"))
observed = Function(P).interpolate(exact)

continue_annotation()
W = FunctionSpace(mesh, "RT", 1) * P
w = Function(W, name="flow")
(sigma, p), (tau, q) = split(w), TestFunctions(W)
nets = [femnn.MLP(1, 10, 1, output="softplus", input_range=(0, 1), seed=k) for k in (1, 2)]
r = [femnn.NeuralCoefficient(n, part * p) for n, part in zip(nets, layers, strict=True)]
F = (lower * r[0] + (1 - lower) * r[1]) * inner(sigma, tau) * dx - p * div(tau) * dx
F += (div(sigma) - 10) * q * dx
femnn.solve(F == 0, w, solver_parameters=ROOM)
J = femnn.assemble((p - observed) ** 2 * dx)
Jhat = ReducedFunctional(J, [Control(law.weights) for law in r])
pause_annotation()

result = femnn.fit(Jhat, maxiter=ITERATIONS, options={"maxcor": 50})

femnn.solve(F == 0, w, solver_parameters=ROOM)
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
errors = {}
for ax, name, law, truth in zip(axes, ("lower", "upper"), r, truths, strict=True):
    line = np.linspace(*law.visited()[0], 500)
    difference = femnn.evaluate(law.net, line) - truth(line)
    errors[name] = np.linalg.norm(difference) / np.linalg.norm(truth(line))
    femnn.plot_law(law, truth=truth, ax=ax)
    ax.set(xlabel="p (dimensionless)", ylabel=f"r(p) of the {name} layer (dimensionless)")
networks = dict(zip(errors, nets, strict=True))
femnn.save_results(
    "output/two_layers", errors, figure=figure, networks=networks, fields=w.subfunctions
)
PETSc.Sys.Print("r(p), relative L2 errors: lower {lower:.2%}, upper {upper:.2%}".format(**errors))
