"""Find how a boiling liquid cools a hot fin, from thermometers inside the metal.

A nickel fin stands in a liquid of 60 degrees C; its root is hot.  Inside ``div(k grad T) = 0``, on
its side and tip ``-k dT/dn = h(T) (T - 60)``.  The heat transfer coefficient h depends on the
surface's temperature, as bubbles cool better than a film of vapour.  24 thermometers below the
surface are read for four temperatures of the root.  A network on the boundary's facets
(``measure=ds``) stands for h, and a solver that is made once serves all four states.
"""

import numpy as np
from firedrake import *
from firedrake.adjoint import *

import femnn

CELLS = 5
ITERATIONS = 250
ROOTS = (400.0, 550.0, 700.0, 850.0)  # degrees C
SCALE = 1000.0  # W/(m2 K) for one unit of the network's output


def truth(T, exp=exp):
    """W/(m2 K) for T in degrees C."""
    film = 250 / (1 + exp((600 - T) / 40))
    return 250 + film + 2100 * exp(-(((T - 400) / 120) ** 2))


mesh = RectangleMesh(5 * CELLS, CELLS, 0.050, 0.005)  # m; 1 is the root, 2 the tip, 4 the side
points = [(x, y) for y in (0.0, 0.003) for x in np.linspace(0.002, 0.048, 12)]
thermometers = FunctionSpace(VertexOnlyMesh(mesh, points), "DG", 0)


def readings(T, h):
    """What the thermometers read, one Function for each temperature of the root."""
    V = T.function_space()
    v, root = TestFunction(V), Constant(60.0)
    F = 70 * inner(grad(T), grad(v)) * dx + h * (T - 60) * v * ds((2, 4))
    problem = femnn.NeuralVariationalProblem(F, T, DirichletBC(V, root, 1))
    options = {"snes_linesearch_type": "bt", "snes_rtol": 1e-9, "snes_atol": 1e-9}
    solver = femnn.NeuralVariationalSolver(problem, solver_parameters=options)
    for value in ROOTS:
        root.assign(value)
        solver.solve()
        yield assemble(interpolate(T, thermometers))


exact = Function(FunctionSpace(mesh, "P", 4)).assign(60.0)
observed = list(readings(exact, truth(exact)))

continue_annotation()
T = Function(FunctionSpace(mesh, "P", 2), name="temperature").assign(60.0)
net = femnn.MLP(1, 16, 16, 1, output="softplus", input_range=(60, 850), init="normal", seed=0)
h = femnn.NeuralCoefficient(net, T, measure=ds)
J = 0
for found, measured in zip(readings(T, SCALE * h), observed, strict=True):
    J += assemble(0.5 * (found - measured) ** 2 * dx)
Jhat = ReducedFunctional(J, Control(h.weights))
pause_annotation()

result = femnn.fit(Jhat, maxiter=ITERATIONS, options={"maxcor": 60})

visited = np.array([h.visited()[0] for _ in readings(T, SCALE * h)])  # in each state
line = np.linspace(visited.min(), visited.max(), 1000)
law = truth(line, np.exp)
error = np.linalg.norm(SCALE * femnn.evaluate(net, line) - law) / np.linalg.norm(law)
ax = femnn.plot_law(
    lambda T: SCALE * femnn.evaluate(net, T), visited=line, truth=lambda T: truth(T, np.exp)
)
ax.set(xlabel="temperature of the surface (°C)", ylabel="h (W m⁻² K⁻¹)")
numbers = {"law_error": error, "loss": result.loss}
femnn.save_results("output/boundary_law", numbers, figure=ax, networks={"h": net}, fields=T)
PETSc.Sys.Print(f"h(T), relative L2 error over the surface's temperatures: {error:.2%}")
