"""Hand a trained law over: as a file, as a table, and as UFL for a model without femnn.

``-(kappa(u) u')' = 10`` on (0, 1); a network for kappa(u) is trained on u.  ``save`` keeps weights
and structure without pickle, ``load`` builds the network again.  ``save_table`` writes a CSV file
with units that any program reads.  ``to_ufl`` writes the network out as an expression: the
equation is then solved by Firedrake alone, to the same u but for rounding.
"""

from pathlib import Path

import numpy as np
from firedrake import *
from firedrake.adjoint import *

import femnn

CELLS = 40
ITERATIONS = 60
OUTPUT = Path("output/export_law")


def truth(u):
    return 1 + 2 * u**2


mesh = UnitIntervalMesh(CELLS)
V = FunctionSpace(mesh, "P", 1)
bc = DirichletBC(V, 0, "on_boundary")


def equation(u, kappa):
    v = TestFunction(V)
    return kappa * u.dx(0) * v.dx(0) * dx(degree=4) - 10 * v * dx == 0


exact = Function(V)
solve(equation(exact, truth(exact)), exact, bc)

continue_annotation()
u = Function(V, name="u")
net = femnn.MLP(1, 10, 10, 1, output="softplus", input_range=(0, 1))
kappa = femnn.NeuralCoefficient(net, u)
femnn.solve(equation(u, kappa), u, bc)
J = femnn.assemble((u - exact) ** 2 * dx)
Jhat = ReducedFunctional(J, Control(kappa.weights))
pause_annotation()
femnn.fit(Jhat, maxiter=ITERATIONS, options={"maxcor": 50})
femnn.solve(equation(u, kappa), u, bc)

# A file: the network comes back with what was written about it.
lower, upper = kappa.visited()[0]
about = {"law": "kappa(u)", "learned on": [lower, upper]}
femnn.save(net, OUTPUT / "kappa.safetensors", metadata=about)
again = femnn.load(OUTPUT / "kappa.safetensors")

# A table: linear interpolation in it is what many programs do.
femnn.save_table(again, OUTPUT / "kappa.csv", {"u": (lower, upper)}, ["kappa"], n=201)
table = COMM_WORLD.bcast(np.loadtxt(OUTPUT / "kappa.csv", delimiter=",", skiprows=1))

# UFL: Firedrake's own solver, with no network and no femnn in the model.
plain = Function(V)
solve(equation(plain, femnn.to_ufl(again, plain)[0]), plain, bc)

line = np.linspace(lower, upper, 1000)
values = femnn.evaluate(net, line)
errors = {
    "law": np.linalg.norm(values - truth(line)) / np.linalg.norm(truth(line)),
    "table": abs(np.interp(line, *table.T) - values).max(),
    "u by UFL": errornorm(u, plain) / norm(u),
}
ax = femnn.plot_law(again, visited=(lower, upper), truth=truth)
ax.plot(*table[::10].T, "k.", label="every tenth row of the table")
ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
ax.set(xlabel="u (dimensionless)", ylabel=r"$\kappa(u)$ (dimensionless)")
femnn.save_results(OUTPUT, errors, figure=ax)
PETSc.Sys.Print(", ".join(f"error of the {name}: {error:.1e}" for name, error in errors.items()))
