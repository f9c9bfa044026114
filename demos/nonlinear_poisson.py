"""Learn the law kappa(u) in a nonlinear Poisson equation from values of u at stations.

``-div(kappa(u) grad u) = 2.6`` on the unit square, ``u = 0`` on the left and lower sides, no flux
through the others.  Only values of u at random stations are known, no value of kappa: they come
from the true law and quartic elements, the model has quadratic ones.  A network of one input
stands for kappa in the PDE, and L-BFGS with the adjoint's gradient makes the model's u agree with
the stations.
"""

import numpy as np
from firedrake import *
from firedrake.adjoint import *

import femnn

CELLS = 24
STATIONS = 2500
ITERATIONS = 300
LU = {"ksp_type": "preonly", "pc_type": "lu"}  # PETSc's own: the fastest for few unknowns


def truth(u, exp=exp):
    """The law that is to be found again, for UFL or with numpy's exp."""
    return 0.25 + 0.5 * exp(-(((u - 0.25) / 0.13) ** 2)) + 0.75 / (1 + exp(-14 * (u - 0.65)))


def problem(u, kappa):
    v = TestFunction(u.function_space())
    F = kappa * inner(grad(u), grad(v)) * dx - 2.6 * v * dx
    return F == 0, u, DirichletBC(u.function_space(), 0, (1, 3))


mesh = UnitSquareMesh(CELLS, CELLS)
stations = femnn.Stations(mesh, np.random.default_rng(0).uniform(0, 1, (STATIONS, 2)))

exact = Function(FunctionSpace(mesh, "P", 4))
solve(*problem(exact, truth(exact)))
data = femnn.Observations(stations, stations(exact), std=1.0)

continue_annotation()
u = Function(FunctionSpace(mesh, "P", 2), name="u")
net = femnn.MLP(1, 20, 20, 1, output="softplus", input_range=(0, 1), init="normal", seed=0)
kappa = femnn.NeuralCoefficient(net, u)
femnn.solve(*problem(u, kappa), solver_parameters=LU)
J = data.misfit(u) / STATIONS
Jhat = ReducedFunctional(J, Control(kappa.weights))
pause_annotation()

result = femnn.fit(Jhat, maxiter=ITERATIONS, options={"maxcor": 60})

femnn.solve(*problem(u, kappa))
line = np.linspace(*kappa.visited()[0], 1000)
law = truth(line, np.exp)
error = np.linalg.norm(femnn.evaluate(net, line) - law) / np.linalg.norm(law)
ax = femnn.plot_law(kappa, truth=lambda u: truth(u, np.exp))
ax.set(xlabel="u (dimensionless)", ylabel=r"$\kappa(u)$ (dimensionless)")
numbers = {"law_error": error, "loss": result.loss, "iterations": result.iterations}
femnn.save_results(
    "output/nonlinear_poisson", numbers, figure=ax, networks={"kappa": net}, fields=u
)
PETSc.Sys.Print(f"kappa(u), relative L2 error over the range of u: {error:.2%}")
