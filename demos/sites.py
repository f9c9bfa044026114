"""Many sites, each with a mesh of its own: a law that all share, and what an attribute decides.

Groundwater between a river and a lake: ``-(k(h) h')' = 1`` on (0, length), h = 0.5 at the river and
``k h' = theta (1 - h)`` at the lake.  k(h) is the same at all sites; theta, how well water passes
the lake's bed, depends on the share of clay in it.  Both are unknown, a few wells at each site are
read.  ``femnn.ensemble`` adds up the sites' misfits: under ``mpiexec`` each rank has a part of the
sites, and what ranks exchange are numbers for weights.  Two sites are held out: of these the share
of clay is known only, and the networks say what their wells show.
"""

import matplotlib.pyplot as plt
import numpy as np
from firedrake import *
from firedrake.adjoint import *

import femnn

SITES = 12
CELLS = 20
ITERATIONS = 15
NOISE = 0.005  # standard deviation of a reading

truths = {"k": lambda h: 0.4 + 0.5 * h**2, "theta": lambda clay: 0.2 + 2.5 * np.exp(-4 * clay)}


def heads(site, comm, k, theta):
    """The solution at a site, and its wells."""
    mesh = IntervalMesh(site["cells"], site["length"], comm=comm)
    V = FunctionSpace(mesh, "P", 2)
    h, v = Function(V, name="h").assign(0.5), TestFunction(V)
    F = k(h) * inner(grad(h), grad(v)) * dx - v * dx - theta * (1 - h) * v * ds(2)
    femnn.solve(F == 0, h, DirichletBC(V, 0.5, 1))
    return h, femnn.Stations(mesh, site["length"] * np.linspace(0.2, 1, 5)[:, None])


def predicted(site, comm):
    theta = femnn.apply(nets["theta"], Constant([site["clay"]]), into=Constant([0.0]))
    return heads(site, comm, lambda h: femnn.NeuralCoefficient(nets["k"], h), theta[0])


def misfit(site, comm):
    h, wells = predicted(site, comm)
    return femnn.Observations(wells, site["readings"], std=NOISE).misfit(h)


random, sites = np.random.default_rng(1), []
for i in range(SITES):
    length, clay, errors = random.uniform(0.8, 1.6), i / (SITES - 1), NOISE * random.normal(size=5)
    sites.append({"cells": CELLS + i, "length": length, "clay": clay})
    h, wells = heads(sites[-1], COMM_SELF, truths["k"], truths["theta"](clay))
    sites[-1]["readings"] = np.asarray(wells(h)) + errors
held_out = [sites.pop(SITES // 4), sites.pop(SITES // 2)]
nets = {
    "k": femnn.MLP(1, 8, 1, output="softplus", input_range=(0, 2), init="normal", seed=0),
    "theta": femnn.MLP(1, 8, 1, output="softplus", input_range=(0, 1), init="normal", seed=1),
}
femnn.fit(femnn.ensemble(misfit, sites, list(nets.values())), "gauss-newton", maxiter=ITERATIONS)

misses = []
for site in held_out:
    h, wells = predicted(site, COMM_SELF)
    misses.append(np.asarray(wells(h)) - site["readings"])
numbers, ranges = {"rmse, held out": np.sqrt(np.mean(np.square(misses)))}, ((0.5, 1.2), (0, 1))
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for ax, (name, truth), seen in zip(axes, truths.items(), ranges, strict=True):
    line = np.linspace(*seen, 500)
    difference = femnn.evaluate(nets[name], line) - truth(line)
    numbers[name] = np.linalg.norm(difference) / np.linalg.norm(truth(line))
    femnn.plot_law(nets[name], visited=seen, truth=truth, ax=ax)
    ax.set(
        xlabel={"k": "h (dimensionless)", "theta": "share of clay"}[name],
        ylabel=f"{name} (dimensionless)",
    )
femnn.save_results("output/sites", numbers, figure=figure, networks=nets)
PETSc.Sys.Print("relative L2 errors: k {k:.2%}, theta {theta:.2%}".format(**numbers))
