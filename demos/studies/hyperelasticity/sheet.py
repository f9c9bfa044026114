"""A sheet with a hole, in plane strain: its model, the true law, and what is measured.

The true law is Isihara's, ``0.5 (I1 - 3) + (I2 - 3) + (I1 - 3)^2 + 1.5 (J - 1)^2``, with the
invariants of the isochoric deformation and the volume ratio J; all is dimensionless.
"""

from collections.abc import Iterator

import numpy as np
from firedrake import *
from firedrake.adjoint import *
from scipy.spatial import cKDTree

import femnn

DEGREE = 4  # of quadrature
RADIUS = 0.3  # of the hole
NOISE = 1e-3  # of the displacement at each node, in widths of the sheet
FORCE_NOISE = 5e-3  # in parts of the largest force
# Displacements of the right and the upper side, for each of three ways of loading.
LOADS = [
    [(0.15, 0.0), (0.3, 0.0)],
    [(0.12, 0.12), (0.24, 0.24)],
    [(0.08, -0.08), (0.15, -0.15)],
]
# F11, F12, F21, F22 on the paths along which stresses are compared.
PATHS = {
    "uniaxial": lambda a: (1 + a, 0 * a, 0 * a, 1 + 0 * a),
    "shear": lambda a: (1 + 0 * a, a, 0 * a, 1 + 0 * a),
    "biaxial": lambda a: (1 + a, 0 * a, 0 * a, 1 + a),
}
SOLVER = {"snes_linesearch_type": "bt", "snes_rtol": 1e-10, "snes_atol": 1e-10}


def invariants(F11, F12, F21, F22) -> tuple:
    """I1, I2^1.5 (of the isochoric deformation) and J in plane strain, for UFL and torch."""
    J = F11 * F22 - F12 * F21
    squares = F11**2 + F12**2 + F21**2 + F22**2
    return (squares + 1) / J ** (2 / 3), ((squares + J**2) / J ** (4 / 3)) ** 1.5, J


def truth(I1, I2_power, J):
    """The energy that is to be recovered, for UFL and torch."""
    return 0.5 * (I1 - 3) + I2_power ** (2 / 3) - 3 + (I1 - 3) ** 2 + 1.5 * (J - 1) ** 2


def quarter(cells: int) -> tuple:
    """The unit square and its map to the sheet's quarter, whose elements are curved.

    The sides are 1 the hole, 3 and 4 the planes of symmetry, 5 on the right, 6 above.
    """
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

    def __init__(self, flat, mesh, law):
        self.flat = flat
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

    def steps(self) -> Iterator[Function]:
        """The displacement in each load step; starts from the step before, stretched."""
        x, y = SpatialCoordinate(self.V.mesh())
        for path in LOADS:
            self.u.assign(0.0)
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


def true_law(invariants: tuple) -> list:
    """dW/dI of the true energy."""
    given = [variable(i) for i in invariants]
    return [diff(truth(*given), i) for i in given]


def observe(cells: int, V) -> tuple[list[Function], np.ndarray]:
    """In each load step the displacement of the nodes of V, and the forces, without noise."""
    sheet = Sheet(*quarter(2 * cells), true_law)
    fine = VectorFunctionSpace(sheet.flat, "P", 2)  # on the flat squares, both have these nodes
    coarse = VectorFunctionSpace(UnitSquareMesh(cells, cells), "P", 2)
    displacements, forces = [], []
    for u in sheet.steps():
        on_square = Function(fine, val=u.dat)
        displacements.append(Function(V, val=assemble(interpolate(on_square, coarse)).dat))
        forces.append(sheet.forces())
    return displacements, np.array(forces)


def add_noise(cells: int, displacements: list, forces: np.ndarray, flat, seed: int) -> tuple:
    """The same with noise, which is the same on any number of ranks."""
    random = np.random.default_rng(seed)
    V = displacements[0].function_space()
    place = Function(VectorFunctionSpace(flat, "P", 2)).interpolate(SpatialCoordinate(flat))
    i, j = np.rint(2 * cells * place.dat.data_ro).astype(int).T
    noisy = []
    for u in displacements:
        noisy.append(Function(V).assign(u))
        noisy[-1].dat.data[:] += random.normal(0, NOISE, (2 * cells + 1,) * 2 + (2,))[i, j]
    return noisy, forces + random.normal(0, FORCE_NOISE * abs(forces).max(), forces.shape)


def visited(sheet: Sheet, displacements: list) -> np.ndarray:
    """I1 and J at the corners of all cells in all load steps, on every rank."""
    corners = VectorFunctionSpace(sheet.V.mesh(), "DG", 1)
    found = []
    for u in displacements:
        sheet.u.assign(u)
        pair = as_vector((sheet.invariants[0], sheet.invariants[2]))
        found.append(Function(corners).interpolate(pair).dat.data_ro.copy())
    return np.concatenate(COMM_WORLD.allgather(np.concatenate(found)))


def visited_paths(states: np.ndarray) -> dict[str, np.ndarray]:
    """F on each path as far as the sheet has a state within 5 % of its range in I1 and J."""
    amounts, width = np.linspace(0, 1, 401), np.ptp(states, axis=0)
    tree, paths = cKDTree(states / width), {}
    for name, path in PATHS.items():
        F = np.stack(path(amounts), 1)
        I1, _, J = invariants(*F.T)
        near = tree.query(np.stack((I1, J), 1) / width)[0] < 0.05
        paths[name] = F[: len(F) if near.all() else np.argmin(near)]
    return paths
