"""Recover the stored energy of a rubber sheet from its displacements and two forces.

A square sheet with a hole, in plane strain, is pulled and pushed at its right and upper sides, which
slide in clamps; by symmetry a quarter of it, [0, 1]^2 without the hole, is the model.  The true law
is Isihara's, ``0.5 (I1 - 3) + (I2 - 3) + (I1 - 3)^2 + 1.5 (J - 1)^2`` with the invariants of the
isochoric deformation and the volume ratio J; all is dimensionless.  In each load step the
displacement of all nodes and the two forces in the clamps are measured: with the true law, on a mesh
with half as wide cells, and with independent noise of 1e-3 of the sheet's width at each node
and 0.5 % of the largest force.

The energy is a network N of the three invariants that is convex for all weights, and increases in
the first two, as a stable material's energy (a polyconvex one) does.  What N has at rest is taken
away, value and slope in J, so that energy and stress vanish there for all weights:
``W = N(I1, I2^1.5, J) - N(3, 3^1.5, 1) - dN/dJ(3, 3^1.5, 1) (J - 1)``.

The stress is ``P = sum_i dW/dI_i dI_i/dF``.  ``femnn.Gradient`` makes dW/dI a coefficient; its derivative, the
network's second, is in Newton's tangent, which is symmetric because a potential is behind it.
"""

import common
import matplotlib.pyplot as plt
import numpy as np
import torch
from common import relative_difference
from firedrake import *
from firedrake.adjoint import *
from scipy.spatial import Delaunay

import femnn

DEGREE = 4  # of quadrature
RADIUS = 0.3  # of the hole
NOISE, FORCE_NOISE = 1e-3, 5e-3
REST = [[3.0, 3.0**1.5, 1.0]]
# Displacements of the right and the upper side, for each of three ways of loading.
LOADS = [
    [(0.1, 0.0), (0.2, 0.0), (0.3, 0.0)],
    [(0.08, 0.08), (0.16, 0.16), (0.24, 0.24)],
    [(0.07, -0.07), (0.14, -0.14), (0.2, -0.2)],
]
SOLVER = {"snes_linesearch_type": "bt", "snes_rtol": 1e-10, "snes_atol": 1e-10}


def invariants(F11, F12, F21, F22) -> tuple:
    """I1, I2^1.5 (of the isochoric deformation) and J in plane strain, for UFL and torch."""
    J = F11 * F22 - F12 * F21
    squares = F11**2 + F12**2 + F21**2 + F22**2
    return (squares + 1) / J ** (2 / 3), ((squares + J**2) / J ** (4 / 3)) ** 1.5, J


def truth(I1, I2_power, J):
    """The energy that is to be recovered, for UFL and torch."""
    return 0.5 * (I1 - 3) + I2_power ** (2 / 3) - 3 + (I1 - 3) ** 2 + 1.5 * (J - 1) ** 2


class StoredEnergy(torch.nn.Module):
    """A convex network of the invariants without energy and stress at rest."""

    def __init__(self, net: torch.nn.Module):
        super().__init__()
        self.net = net
        self.register_buffer("rest", torch.tensor(REST, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        slope = femnn.Gradient(self.net)(self.rest)[:, 2:]
        return self.net(x) - self.net(self.rest) - slope * (x[:, 2:] - 1)


def quarter(cells: int):
    """Mesh of the sheet's quarter; 3 and 4 are the planes of symmetry, 5 right, 6 above."""
    square = UnitSquareMesh(cells, cells)
    s, t = SpatialCoordinate(square)
    facets = FunctionSpace(square, "HDiv Trace", 0)
    sides = [And(s > 1 - 1e-9, t < 0.5), And(s > 1 - 1e-9, t > 0.5)]
    marks = [Function(facets).interpolate(conditional(side, 1, 0)) for side in sides]
    flat = RelabeledMesh(square, marks, [5, 6])
    s, t = SpatialCoordinate(flat)
    along = conditional(t < 0.5, tan(pi / 2 * t), tan(pi / 2 * (1 - t)))
    outer = conditional(t < 0.5, as_vector((1, along)), as_vector((along, 1)))
    hole = RADIUS * as_vector((cos(pi / 2 * t), sin(pi / 2 * t)))
    curved = Function(VectorFunctionSpace(flat, "P", 2)).interpolate(hole + s * (outer - hole))
    return flat, Mesh(curved)


class Sheet:
    """The sheet with some energy; ``law`` gives dW/dI as a function of the invariants."""

    def __init__(self, cells: int, law):
        self.flat, mesh = quarter(cells)
        self.V = V = VectorFunctionSpace(mesh, "P", 2)
        self.u, v = Function(V, name="displacement"), TestFunction(V)
        self.F = variable(Identity(2) + grad(self.u))
        self.invariants = invariants(*(self.F[i, j] for i in (0, 1) for j in (0, 1)))
        slope = law(self.invariants)
        self.P = sum(slope[i] * diff(self.invariants[i], self.F) for i in range(3))
        self.ends = Constant(0.0), Constant(0.0)
        bcs = [DirichletBC(V.sub(0), 0, 4), DirichletBC(V.sub(1), 0, 3)]
        bcs += [DirichletBC(V.sub(i), self.ends[i], 5 + i) for i in (0, 1)]
        residual = inner(self.P, grad(v)) * dx(degree=DEGREE)
        problem = femnn.NeuralVariationalProblem(residual, self.u, bcs)
        self.solver = femnn.NeuralVariationalSolver(problem, solver_parameters=SOLVER)

    def steps(self):
        """The displacement in each load step; starts from the step before, stretched."""
        x, y = SpatialCoordinate(self.V.mesh())
        for path in LOADS:
            self.u.assign(0)
            before = 0.0, 0.0
            for ends in path:
                stretch = as_vector(((ends[0] - before[0]) * x, (ends[1] - before[1]) * y))
                self.u.assign(self.u + Function(self.V).interpolate(stretch))
                for constant, value in zip(self.ends, ends, strict=True):
                    constant.assign(value)
                self.solver.solve()
                before = ends
                yield self.u

    def forces(self) -> list:
        """The forces on the right and the upper side.

        The stress does the work of these forces in a displacement that is 1 on the side, such as
        x or y: this is as accurate as energies are, where an integral over the side is not.
        """
        return [femnn.assemble(self.P[i, i] * dx(degree=DEGREE)) for i in (0, 1)]
