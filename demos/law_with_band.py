"""A law with a band of how sure it is, from noisy stations; nobody tells how large the noise is.

``-div(kappa(u) grad u) = 2.6`` on the unit square as in nonlinear_poisson.py, with 400 stations and
errors of 1 %.  A prior keeps the network's weights small, and the noise's scale is a Constant: the
evidence of the data says how small and how large (MacKay), so that nothing is stopped early.  The
posterior's band is where the law lies with a probability of 90 %: the true law should be inside
nearly everywhere.  Begin with a noise that is too small: with one that is too large a law may stay
that is too simple, and the rest counts as noise.
"""

import numpy as np
from firedrake import *
from firedrake.adjoint import *

import femnn

CELLS = 24
STATIONS = 400
ROUNDS = 30
NOISE = 0.01


def truth(u, exp=exp):
    """The law that is to be found again, for UFL or with numpy's exp."""
    return 0.25 + 0.5 * exp(-(((u - 0.25) / 0.13) ** 2)) + 0.75 / (1 + exp(-14 * (u - 0.65)))


def problem(u, kappa):
    v = TestFunction(u.function_space())
    F = kappa * inner(grad(u), grad(v)) * dx - 2.6 * v * dx
    return F == 0, u, DirichletBC(u.function_space(), 0, (1, 3))


mesh, random = UnitSquareMesh(CELLS, CELLS), np.random.default_rng(0)
stations = femnn.Stations(mesh, random.uniform(0, 1, (STATIONS, 2)))
exact = Function(FunctionSpace(mesh, "P", 4))
solve(*problem(exact, truth(exact)))
readings = np.asarray(stations(exact)) + random.normal(0, NOISE, STATIONS)
noise = Constant(0.001, name="noise")
data = femnn.Observations(stations, readings, scale=noise)

continue_annotation()
u = Function(FunctionSpace(mesh, "P", 2), name="u")
net = femnn.MLP(1, 12, 12, 1, output="softplus", input_range=(0, 1), init="normal", seed=0)
kappa = femnn.NeuralCoefficient(net, u)
femnn.solve(*problem(u, kappa))
J = data.misfit(u) + femnn.GaussianPrior(kappa.weights).energy()
Jhat = ReducedFunctional(J, Control(kappa.weights))
pause_annotation()

posterior = femnn.fit_with_evidence(Jhat, rounds=ROUNDS).posterior

femnn.solve(*problem(u, kappa))
line = np.linspace(*kappa.visited()[0], 1000)
law, known = posterior.law(kappa, line), truth(line, np.exp)
error = np.linalg.norm(law.mean - known) / np.linalg.norm(known)
lower, upper = law.interval(0.9)
coverage = np.mean((lower <= known) & (known <= upper))
ax = femnn.plot_law(
    kappa,
    truth=lambda u: truth(u, np.exp),
    band=lambda u: posterior.law(kappa, u).interval(0.9),
)
ax.set(xlabel="u (dimensionless)", ylabel=r"$\kappa(u)$ with its 90 % band (dimensionless)")
numbers = {"law_error": error, "coverage of 90%": coverage, "noise": float(noise)}
numbers |= {"effective_parameters": posterior.effective_parameters}
femnn.save_results("output/law_with_band", numbers, figure=ax, networks={"kappa": net}, fields=u)
PETSc.Sys.Print(posterior, f"noise {float(noise):.4f}, 90 % band covers {coverage:.0%}")
PETSc.Sys.Print(f"kappa(u), relative L2 error over the range of u: {error:.2%}")
