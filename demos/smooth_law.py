"""Keep a law smooth where data are few and noisy: a penalty on its slope.

``-div(kappa(u) grad u) = 10`` on the unit square with u = 0 on its sides; u is read at a few
stations with noise.  The network follows the noise, unless a penalty on d kappa / du keeps it
smooth.  The penalty is an integral over the law's argument, not over the square: the same network,
so the same weights, stands on a mesh of the interval of u, and ``slope`` is its derivative there.
"""

import numpy as np
from firedrake import *
from firedrake.adjoint import *

import femnn

CELLS = 16
STATIONS = 100
SEED = 1
ITERATIONS = 100
NOISE = 0.03  # standard deviation of a reading, in the unit of u
HIGHEST = 0.7  # of u, for the mesh of its range
PENALTIES = {"no penalty": 1e-9, "with penalty": 1e-2}


def truth(u):
    return 1 + 0.5 * u


def problem(u, kappa):
    v = TestFunction(u.function_space())
    F = kappa * inner(grad(u), grad(v)) * dx - 10 * v * dx
    return F == 0, u, DirichletBC(u.function_space(), 0, "on_boundary")


mesh, random = UnitSquareMesh(CELLS, CELLS), np.random.default_rng(SEED)
points = VertexOnlyMesh(mesh, random.uniform(0, 1, (STATIONS, 2)))
stations = FunctionSpace(points, "DG", 0)
exact = Function(FunctionSpace(mesh, "P", 3))
solve(*problem(exact, truth(exact)))
# In the order in which the points were given each has the same noise on any number of ranks.
noise = Function(FunctionSpace(points.input_ordering, "DG", 0))
noise.dat.data_wo[:] = random.normal(0, NOISE, STATIONS)[: len(noise.dat.data_ro)]
readings = assemble(interpolate(exact, stations)) + assemble(interpolate(noise, stations))
argument = SpatialCoordinate(IntervalMesh(50, 0, HIGHEST))[0]


def learn(penalty):
    """A network that fits the readings."""
    get_working_tape().clear_tape()
    continue_annotation()
    u = Function(FunctionSpace(mesh, "P", 2))
    net = femnn.MLP(1, 20, 20, 1, output="softplus", input_range=(0, HIGHEST), init="normal")
    kappa = femnn.NeuralCoefficient(net, u)
    femnn.solve(*problem(u, kappa))
    misfit = assemble(interpolate(u, stations)) - readings
    J = assemble(0.5 / STATIONS / NOISE**2 * misfit**2 * dx)
    J += femnn.assemble(penalty * femnn.NeuralCoefficient(net, argument).slope[0] ** 2 * dx)
    Jhat = ReducedFunctional(J, Control(kappa.weights))
    pause_annotation()
    femnn.fit(Jhat, maxiter=ITERATIONS)
    return net


nets = {name: learn(penalty) for name, penalty in PENALTIES.items()}
visited = femnn.NeuralCoefficient(nets["no penalty"], exact).visited()[0]
line, errors = np.linspace(*visited, 500), {}
ax = femnn.plot_law(truth, visited=visited, label="truth", color="k", linewidth=4, alpha=0.35)
for name, net in nets.items():
    difference = femnn.evaluate(net, line) - truth(line)
    errors[name] = np.linalg.norm(difference) / np.linalg.norm(truth(line))
    femnn.plot_law(net, ax=ax, label=name)
ax.set(xlabel="u (dimensionless)", ylabel=r"$\kappa(u)$ (dimensionless)")
networks = {name.replace(" ", "_"): net for name, net in nets.items()}
femnn.save_results("output/smooth_law", errors, figure=ax, networks=networks)
text = ", ".join(f"{name} {error:.2%}" for name, error in errors.items())
PETSc.Sys.Print(f"kappa(u), relative L2 error over the range of u: {text}")
