"""Two laws that trade off: temperatures give their ratio only, one measured power gives both.

A rod is heated at one end to T = 1 and loses heat along its length: ``(k(T) T')' = h(T)``.  Both
the conductivity k and the loss h are networks.  If both are twice as large the temperatures are the
same: thermometers tell their ratio, not how large they are.  Both bands are wide, and the ratio of
the means is known well.  The power that the heater takes, one number, settles it.
"""

import matplotlib.pyplot as plt
import numpy as np
from firedrake import *
from firedrake.adjoint import *

import femnn

CELLS = 40
THERMOMETERS = 30
ITERATIONS = 40
NOISE = 0.003  # of a thermometer
POWER_NOISE = 0.01  # relative, of the power


def true_k(T):
    return 0.3 + 0.5 * T**2


def true_h(T):
    return 3 * T / (1 + T)


def problem(T, k, h):
    v = TestFunction(T.function_space())
    F = inner(k * grad(T), grad(v)) * dx + h * v * dx
    return F == 0, T, DirichletBC(T.function_space(), 1, 1)


mesh, random = UnitIntervalMesh(CELLS), np.random.default_rng(0)
V = FunctionSpace(mesh, "P", 2)
exact = Function(V).assign(1.0)
solve(*problem(exact, true_k(exact), true_h(exact)))
places = femnn.Stations(mesh, np.linspace(0.02, 0.98, THERMOMETERS))
readings = np.asarray(places(exact)) + random.normal(0, NOISE, THERMOMETERS)
temperatures = femnn.Observations(places, readings, NOISE)
power = assemble(true_h(exact) * dx) * (1 + random.normal(0, POWER_NOISE))  # what is lost flows in
heater = femnn.Functionals(mesh, ["heater"], lambda h: [h * dx])
heating = femnn.Observations(heater, [power], POWER_NOISE * power)
figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
numbers = {}

for name, is_measured in {"temperatures": False, "and power": True}.items():
    get_working_tape().clear_tape()
    nets = [femnn.MLP(1, 8, 1, output="softplus", input_range=(0, 1), seed=s) for s in (1, 2)]
    continue_annotation()
    T = Function(V, name="T").assign(1.0)
    k, h = (femnn.NeuralCoefficient(net, T, name=n) for net, n in zip(nets, "kh", strict=True))
    femnn.solve(*problem(T, k, h))
    J = temperatures.misfit(T) + (heating.misfit(h) if is_measured else 0.0)
    J += sum(femnn.GaussianPrior(law.weights, 0.3).energy() for law in (k, h))
    levels = [femnn.assemble(law * dx) for law in (k, h)]
    ratio = levels[0] / levels[1]
    Jhat = ReducedFunctional(J, [Control(k.weights), Control(h.weights)])
    pause_annotation()
    femnn.fit(Jhat, "gauss-newton", maxiter=ITERATIONS)
    posterior = femnn.laplace(Jhat)
    for ax, law, truth in zip(axes, (k, h), (true_k, true_h), strict=True):
        line = np.linspace(*law.visited()[0], 500)
        known, found = truth(line), posterior.law(law, line)
        numbers[f"{law.name()}, {name}"] = np.linalg.norm(found.mean - known) / np.linalg.norm(
            known
        )
        (drawn,) = ax.plot(line, found.mean, label=f"{name}, 90 % band")
        ax.fill_between(line, *found.interval(0.9), color=drawn.get_color(), alpha=0.25)
        ax.set(xlabel="T (dimensionless)", ylabel=f"{law.name()}(T) (dimensionless)")
    for what, value in {"mean k": levels[0], "mean h": levels[1], "ratio": ratio}.items():
        known = posterior.predict(value)
        numbers[f"std of {what}, {name}"] = float(known.std / known.mean)

for ax, truth in zip(axes, (true_k, true_h), strict=True):
    ax.plot(line, truth(line), "k--", label="truth")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)

numbers["worth of the power"] = posterior.data_worth(levels[0])["worth", "heater"]
femnn.save_results("output/two_laws", numbers, figure=figure, networks={"k": nets[0], "h": nets[1]})
PETSc.Sys.Print("\n".join(f"{name}: error {value:.2%}" for name, value in numbers.items()))
