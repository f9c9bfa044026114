"""The thermal problem of the public benchmark Mosaic (arXiv 2606.27895), written in three ways.

Steady heat conduction on nx x nx/2 x 1 hexahedra, with a conductivity
k_min + (k_max - k_min) rho^3 and one rho per cell: what a density-based topology optimisation
solves in each of its steps.  A side is cold, heat flows in through the side opposite, and the
objective is the thermal compliance, this flux times the temperature.  There is no network here:
what is measured is a forward solve plus one vector-Jacobian product for all rho.
"""

from contextlib import contextmanager

import numpy as np
import torch
from firedrake import *
from firedrake.adjoint import *
from firedrake.assemble import get_assembler

import femnn
from benchmarks.problem import clock

# The fastest direct solver here; the matrix is symmetric.
OPTIONS = {
    "ksp_type": "preonly",
    "pc_type": "cholesky",
    "pc_factor_mat_solver_type": "mumps",
}
K_MAX = 1.0
K_MIN = 1e-3 * K_MAX
COLD, HOT = 1, 2  # x = 0, and x = 2


def conductivity(rho):
    return K_MIN + (K_MAX - K_MIN) * rho**3


@contextmanager
def recording():
    """A tape of its own that records; nothing records afterwards."""
    with set_working_tape() as tape:
        continue_annotation()
        try:
            yield tape
        finally:
            pause_annotation()


class Problem:
    """Temperature, density, boundary condition and forms, the same for all."""

    def __init__(self, nx):
        base = RectangleMesh(nx, nx // 2, 2, 1, quadrilateral=True)
        mesh = ExtrudedMesh(base, 1, layer_height=2 / nx)
        V = FunctionSpace(mesh, "Q", 1)
        self.rho = Function(FunctionSpace(mesh, "DQ", 0), name="rho").assign(0.5)
        self.temperature = Function(V, name="temperature")
        self.bc = DirichletBC(V, 0, COLD)
        self.flux = Constant(1.0, name="flux")

    def heat(self, temperature, test):
        """Conduction, a bilinear form."""
        return conductivity(self.rho) * inner(grad(temperature), grad(test)) * dx

    def compliance(self, temperature):
        """Flux times temperature; also the flux as a source, for a test function."""
        return self.flux * temperature * ds_v(HOT)


class WithFemnn:
    """As a user writes it, ``backward()`` included: rho and its gradient are torch tensors."""

    def __init__(self, nx):
        with recording() as tape:
            p = Problem(nx)
            v = TestFunction(p.temperature.function_space())
            problem = femnn.NeuralVariationalProblem(
                p.heat(p.temperature, v) - p.compliance(v), p.temperature, p.bc, is_linear=True
            )
            solver = femnn.NeuralVariationalSolver(
                problem, solver_parameters={"snes_type": "ksponly", **OPTIONS}
            )
            solver.solve()
            J = femnn.assemble(p.compliance(p.temperature))
            self.layer = femnn.PDELayer(ReducedFunctional(J, Control(p.rho), tape=tape))

    def value_and_gradient(self, rho):
        rho = torch.tensor(rho, requires_grad=True)
        loss = self.layer(rho)
        loss.backward()
        return loss.item(), rho.grad.numpy()


class ByHand:
    """One kept matrix and factorisation, kept assemblers, a transposed solve with the same."""

    def __init__(self, nx):
        with stop_annotating():
            p = Problem(nx)
            V = p.temperature.function_space()
            self.problem, self.multiplier = p, Function(V)
            heat = p.heat(TrialFunction(V), TestFunction(V))
            self.source = assemble(p.compliance(TestFunction(V)))
            p.bc.zero(self.source)
            assembler = get_assembler(heat, bcs=p.bc, mat_type="aij")
            self.matrix = assembler.assemble()
            self.assemble_matrix = assembler.assemble
            self.assemble_value = get_assembler(p.compliance(p.temperature)).assemble
            self.assemble_right_side = get_assembler(
                derivative(p.compliance(p.temperature), p.temperature)
            ).assemble
            weighted = -p.heat(p.temperature, self.multiplier)
            self.assemble_gradient = get_assembler(derivative(weighted, p.rho)).assemble
            # Kept as well: the KSP refers to it, and crashes without.
            self.linear = LinearSolver(self.matrix, solver_parameters=OPTIONS)
            self.ksp = self.linear.ksp

    def value_and_gradient(self, rho):
        with stop_annotating():
            return self._value_and_gradient(rho)

    def _value_and_gradient(self, rho):
        p = self.problem
        p.rho.dat.data_wo[:] = rho
        self.assemble_matrix(tensor=self.matrix)
        self.ksp.setOperators(self.matrix.petscmat)
        with self.source.dat.vec_ro as b, p.temperature.dat.vec_wo as x:
            self.ksp.solve(b, x)
        value = self.assemble_value()
        right_side = self.assemble_right_side()
        p.bc.zero(right_side)
        with right_side.dat.vec_ro as b, self.multiplier.dat.vec_wo as x:
            self.ksp.solveTranspose(b, x)
        return float(value), self.assemble_gradient().dat.data_ro.copy()


class WithPyadjoint:
    """Firedrake's kept solver and pyadjoint's ReducedFunctional, evaluated again and again."""

    def __init__(self, nx):
        with recording() as tape:
            p = Problem(nx)
            V = p.temperature.function_space()
            v = TestFunction(V)
            heat = p.heat(TrialFunction(V), v)
            problem = LinearVariationalProblem(heat, p.compliance(v), p.temperature, p.bc)
            LinearVariationalSolver(problem, solver_parameters=OPTIONS).solve()
            J = assemble(p.compliance(p.temperature))
            self.Jhat = ReducedFunctional(J, Control(p.rho), tape=tape)
            self.space = p.rho.function_space()

    def value_and_gradient(self, rho):
        field = Function(self.space)
        field.dat.data_wo[:] = rho
        value = self.Jhat(field)
        return float(value), self.Jhat.derivative().dat.data_ro.copy()


def densities(nx, count):
    """Densities between 0.2 and 0.8, all different."""
    rng = np.random.default_rng(0)
    first = rng.uniform(0.3, 0.7, nx * (nx // 2))
    return [first + 0.1 * rng.uniform(-1, 1, first.size) for _ in range(count)]


def finite_difference_error(method, rho):
    """Relative error of the gradient in one direction, against fourth-order differences."""
    direction = np.random.default_rng(1).uniform(-1, 1, rho.size)
    h = 1e-3
    values = {k: method.value_and_gradient(rho + k * h * direction)[0] for k in (-2, -1, 1, 2)}
    expected = (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / (12 * h)
    found = method.value_and_gradient(rho)[1] @ direction
    return abs(found - expected) / abs(expected)


def against_by_hand(nx, repeats):
    """Least times of forward plus vector-Jacobian product, the three called in turn."""
    methods = {"femnn": WithFemnn(nx), "by hand": ByHand(nx), "pyadjoint": WithPyadjoint(nx)}
    times = {name: [] for name in methods}
    errors = dict.fromkeys(("femnn", "pyadjoint"), 0.0)
    for rho in densities(nx, repeats + 1):
        found = {}
        for name, method in methods.items():
            seconds, found[name] = clock(method.value_and_gradient, rho)
            times[name].append(seconds)
        value, gradient = found["by hand"]
        for name in errors:
            error = np.linalg.norm(found[name][1] - gradient) / np.linalg.norm(gradient)
            errors[name] = max(errors[name], error, abs(found[name][0] - value) / abs(value))
    assert max(errors.values()) < 1e-8, errors
    error = finite_difference_error(methods["femnn"], rho)
    assert error < 1e-6, error
    seconds = {name: min(t[1:]) for name, t in times.items()}
    return {
        "cells": f"{nx} x {nx // 2} x 1",
        "seconds": seconds,
        "ratio": seconds["femnn"] / seconds["by hand"],
        "pyadjoint ratio": seconds["pyadjoint"] / seconds["by hand"],
        "gradient error": errors["femnn"],
        "finite difference error": error,
    }
