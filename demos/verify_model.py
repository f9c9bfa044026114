"""Check a model's derivatives before training with them: Taylor tests of gradient and Hessian.

Along a direction dw of the weights, ``J(w + e dw) - J(w)`` falls like e, the remainder with the
gradient like e^2, and the one with the Hessian's action as well like e^3.  An order that is too
low is a derivative that is wrong, and a training that stalls without a word.  The model: a
conductivity kappa(u) in the cells and a law h(u) of the boundary, two networks, one nonlinear
solve.
"""

import matplotlib.pyplot as plt
import numpy as np
from firedrake import *
from firedrake.adjoint import *

import femnn

CELLS = 16

mesh = UnitSquareMesh(CELLS, CELLS)
V = FunctionSpace(mesh, "P", 2)
u, v = Function(V, name="u"), TestFunction(V)
nets = {
    "kappa": femnn.MLP(1, 10, 10, 1, output="softplus", seed=1),
    "h": femnn.MLP(1, 10, 1, output="softplus", seed=2),
}

continue_annotation()
kappa = femnn.NeuralCoefficient(nets["kappa"], u)
h = femnn.NeuralCoefficient(nets["h"], u, measure=ds)
F = kappa * inner(grad(u), grad(v)) * dx - v * dx + h * u * v * ds
# Remainders can be no smaller than what Newton's method leaves.
femnn.solve(F == 0, u, solver_parameters={"snes_rtol": 1e-12, "snes_atol": 1e-14})
J = femnn.assemble(u**4 * dx)
Jhat = ReducedFunctional(J, [Control(kappa.weights), Control(h.weights)])
pause_annotation()

rng = np.random.default_rng(0)
weights = [c.weights for c in (kappa, h)]
here = [w.like(w.vector) for w in weights]
direction = [w.like(0.5 * rng.standard_normal(len(w))) for w in weights]
found = taylor_to_dict(Jhat, here, direction)

orders = [min(found[name]["Rate"]) for name in ("R0", "R1", "R2")]
figure, ax = plt.subplots(layout="constrained")
labels = "without derivatives", "with the gradient", "with gradient and Hessian"
for k, label in enumerate(labels):
    ax.loglog(
        found["eps"], found[f"R{k}"]["Residual"], "o-", label=f"{label}: order {orders[k]:.2f}"
    )
ax.set(xlabel="step e along the direction", ylabel="remainder of J (absolute)")
ax.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
femnn.save_results(
    "output/verify_model", {"orders": orders}, figure=figure, networks=nets, fields=u
)
PETSc.Sys.Print("orders of the remainders: {:.3f}, {:.3f}, {:.3f}".format(*orders))
