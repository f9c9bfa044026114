"""Two laws that trade off: temperatures give their ratio only, one measured power gives both.

A rod heated at one end loses heat along its length: ``(k(T) T')' = h(T)``.  Both the conductivity
k and the loss h are networks.  If both are twice as large the temperatures are the
same: thermometers tell their ratio, not how large they are.  Both bands are wide, and the ratio of
their means in the cold half is known well.  The heater's power, one number, tells the rest.
"""

import matplotlib.pyplot as plt
import numpy as np
from firedrake import *
from firedrake.adjoint import *
from numpy.linalg import norm

import femnn

CELLS = 30
ENDS = (1.0, 0.8, 0.6)  # temperatures of the heated end, one run for each
THERMOMETERS = 15
ITERATIONS = 60
NOISE = 0.003  # of a thermometer, and relative of the power of the first run


def truth(T):
    return {"k": 0.3 + 0.5 * T**2, "h": 3 * T / (1 + T)}


def problem(T, end, k, h):
    v = TestFunction(T.function_space())
    F = inner(k * grad(T), grad(v)) * dx + h * v * dx
    return F == 0, T, DirichletBC(T.function_space(), end, 1)


mesh, random = UnitIntervalMesh(CELLS), np.random.default_rng(0)
V, places = FunctionSpace(mesh, "P", 2), femnn.Stations.along(mesh, [0.02], [0.98], THERMOMETERS)
heater, readings = femnn.Functionals(mesh, ["heater"], lambda h: [h * dx]), []
for end in ENDS:
    T = Function(V).assign(end)
    solve(*problem(T, end, **truth(T)))
    exact = np.asarray(places(T)) + random.normal(0, NOISE, THERMOMETERS)
    readings.append(femnn.Observations(places, exact, NOISE))
    if end == ENDS[0]:
        power = assemble(truth(T)["h"] * dx) * (1 + random.normal(0, NOISE))
        heating = femnn.Observations(heater, [power], NOISE * power)
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
line, numbers = np.linspace(0.55, 1, 300), {}

for name, is_measured in {"temperatures": False, "and power": True}.items():
    get_working_tape().clear_tape()
    nets = {n: femnn.MLP(1, 6, 1, output="softplus", input_range=(0, 1), seed=1) for n in "kh"}
    priors = [femnn.GaussianPrior(femnn.Weights.of(net), 0.3) for net in nets.values()]
    continue_annotation()
    J = sum(prior.energy() for prior in priors)
    for end, data in zip(ENDS, readings, strict=True):
        T = Function(V, name="T").assign(end)
        laws = {n: femnn.NeuralCoefficient(net, T) for n, net in nets.items()}
        femnn.solve(*problem(T, end, **laws))
        J += data.misfit(T)
        if end == ENDS[0]:
            cold = conditional(gt(SpatialCoordinate(mesh)[0], 0.5), 1, 0)
            k, h = (femnn.assemble(cold * law * dx) for law in laws.values())
            values = {"mean k": k, "mean h": h, "their ratio": k / h}
            J += heating.misfit(laws["h"]) if is_measured else 0.0
    pause_annotation()
    Jhat = ReducedFunctional(J, [Control(prior.control) for prior in priors])
    femnn.fit(Jhat, "gauss-newton", maxiter=ITERATIONS)
    posterior = femnn.laplace(Jhat)
    known = {what: posterior.predict(value) for what, value in values.items()}
    numbers |= {f"std of {what}, {name}": float(n.std / n.mean) for what, n in known.items()}
    for ax, (law, net) in zip(axes, nets.items(), strict=True):
        found, true = posterior.law(net, line), truth(line)[law]
        numbers[f"{law}, {name}, relative L2 error"] = norm(found.mean - true) / norm(true)
        (drawn,) = ax.plot(line, found.mean, label=f"{name}, 90 % band")
        ax.fill_between(line, *found.interval(0.9), color=drawn.get_color(), alpha=0.25)
        ax.plot(line, true, "k--", label="truth" if is_measured else None)
        ax.set(xlabel="T (dimensionless)", ylabel=f"{law}(T) (dimensionless)")
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
femnn.save_results("output/two_laws", numbers, figure=figure, networks=nets)
PETSc.Sys.Print("\n".join(f"{name}: {value:.2%}" for name, value in numbers.items()))
