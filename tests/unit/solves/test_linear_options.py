"""Linear solvers that cannot be transposed, and what preconditioners are given."""

import functools
import warnings
from typing import ClassVar

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *

import femnn
from tests.unit.solves.diffusion import LU, TIGHT, check_same, mlp, poisson, values_and_gradients

MUMPS = {"mat_type": "aij", "pc_factor_mat_solver_type": "mumps", **LU}
HYBRID = {
    "mat_type": "matfree",
    "ksp_type": "preonly",
    "pc_type": "python",
    "pc_python_type": "firedrake.HybridizationPC",
    "hybridization_ksp_type": "preonly",
    "hybridization_pc_type": "lu",
    **TIGHT,
}
REAL = {
    "ksp_type": "fgmres",
    "ksp_rtol": 1e-11,
    "pc_type": "fieldsplit",
    "pc_fieldsplit_type": "schur",
    "pc_fieldsplit_0_fields": "0",
    "fieldsplit_1_ksp_type": "gmres",
    "fieldsplit_1_pc_type": "none",
    **TIGHT,
}
NEST = {"mat_type": "nest", "fieldsplit_0_ksp_type": "preonly", "fieldsplit_0_pc_type": "lu"}
FREE = {
    "mat_type": "matfree",
    "fieldsplit_0_ksp_type": "preonly",
    "fieldsplit_0_pc_type": "python",
    "fieldsplit_0_pc_python_type": "firedrake.AssembledPC",
    "fieldsplit_0_assembled_pc_type": "lu",
}


class OfOneForm(AssembledPC):
    """A preconditioner of the user's that suits the forward problem alone."""

    _prefix = "assembled_"
    made = 0

    def initialize(self, pc):
        type(self).made += 1
        if type(self).made > 1:
            raise ValueError("only for the forward problem")
        super().initialize(pc)

    def applyTranspose(self, pc, x, y):
        raise NotImplementedError("no transpose")


class Watched(MassInvPC):
    """Notes the viscosity that it is given."""

    seen: ClassVar[list] = []

    def update(self, pc):
        super().update(pc)
        self.seen.append(assemble(self.get_appctx(pc)["mu"] * dx))


def solved(F, w, law, J, bcs=None, **options):
    get_working_tape().clear_tape()
    continue_annotation()
    femnn.solve(F == 0, w, bcs, **options)
    value = femnn.assemble(J)
    pause_annotation()
    return values_and_gradients(ReducedFunctional(value, Control(law.weights)), law)


def darcy(parameters):
    mesh = UnitSquareMesh(4, 4)
    W = FunctionSpace(mesh, "RT", 1) * FunctionSpace(mesh, "DG", 0)
    w, (t, q) = Function(W), TestFunctions(W)
    s, p = split(w)
    law = femnn.NeuralCoefficient(mlp(), p)
    x, _ = SpatialCoordinate(mesh)
    F = law * inner(s, t) * dx - p * div(t) * dx - div(s) * q * dx - (3 + x) * q * dx
    return solved(F, w, law, p**2 * dx + x * s[0] * dx, solver_parameters=parameters)


@pytest.mark.parallel([1, 2])
def test_hybridization():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check_same(darcy(HYBRID), darcy(MUMPS), 1e-8)


def with_numbers(n, parameters):
    """A law of the unknown with n numbers of space R: a source from a mean, and its double."""
    mesh = UnitSquareMesh(6, 6)
    V, R = FunctionSpace(mesh, "CG", 1), FunctionSpace(mesh, "R", 0)
    W = MixedFunctionSpace([V, *[R] * n])
    w, (v, m, *others) = Function(W), TestFunctions(W)
    u, source, *further = split(w)
    law = femnn.NeuralCoefficient(mlp(), u)
    x, y = SpatialCoordinate(mesh)
    F = law * inner(grad(u), grad(v)) * dx + u * v * dx - source * v * dx - x * v * dx
    F += (u - 0.7 - 0.1 * source) * m * dx
    for test, number in zip(others, further, strict=True):
        F += (number - 2 * source) * test * dx
    bc = DirichletBC(W.sub(0), y, 1)
    J = u**2 * dx + sum(number * x * dx for number in further)
    return solved(F, w, law, J, bc, solver_parameters=parameters)


@functools.cache
def with_defaults(n):
    return with_numbers(n, None)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("blocks", [NEST, FREE], ids=["nest", "matfree"])
@pytest.mark.parametrize("kind", ["full", "lower"])
def test_real_spaces_use_the_options_of_the_forward_problem(n, blocks, kind):
    fields = {"pc_fieldsplit_1_fields": ",".join(map(str, range(1, n + 1)))}
    given = {**REAL, **blocks, **fields, "pc_fieldsplit_schur_fact_type": kind}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check_same(with_numbers(n, given), with_defaults(n), 1e-6)


def test_a_solver_that_is_exchanged_is_named(V, exact):
    parameters = {
        "mat_type": "matfree",
        "ksp_type": "gmres",
        "ksp_rtol": 1e-12,
        "pc_type": "python",
        "pc_python_type": f"{__name__}.OfOneForm",
        "assembled_pc_type": "lu",
        **TIGHT,
    }
    OfOneForm.made = 0
    Jhat, kappa, *_ = poisson(V, solver_parameters=parameters)
    with pytest.warns(UserWarning, match="only for the forward problem.*adjoint_solver_parameters"):
        Jhat.derivative()
    OfOneForm.made = 0  # the forward problem's solver is made again
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # once
        check_same(values_and_gradients(Jhat, kappa), exact[True], 1e-8)


def test_the_application_context_has_the_present_values():
    mesh = UnitSquareMesh(4, 4)
    W = VectorFunctionSpace(mesh, "CG", 2) * FunctionSpace(mesh, "CG", 1)
    w, (v, q) = Function(W), TestFunctions(W)
    u, p = split(w)
    x, y = SpatialCoordinate(mesh)
    law = femnn.NeuralCoefficient(mlp(), inner(grad(u), grad(u)), degree=4)
    mu = 0.1 + 5 * law
    F = inner(mu * grad(u), grad(v)) * dx - p * div(v) * dx - q * div(u) * dx
    F -= 1e-2 * p * q * dx + dot(as_vector([100 * y, -50 * x]), v) * dx
    bc = DirichletBC(W.sub(0), 0, "on_boundary")
    parameters = {
        "mat_type": "matfree",
        "ksp_type": "fgmres",
        "ksp_rtol": 1e-10,
        "pc_type": "fieldsplit",
        "pc_fieldsplit_type": "schur",
        "pc_fieldsplit_schur_fact_type": "lower",
        "fieldsplit_0_ksp_type": "preonly",
        "fieldsplit_0_pc_type": "python",
        "fieldsplit_0_pc_python_type": "firedrake.AssembledPC",
        "fieldsplit_0_assembled_pc_type": "lu",
        "fieldsplit_1_ksp_type": "preonly",
        "fieldsplit_1_pc_type": "python",
        "fieldsplit_1_pc_python_type": f"{__name__}.Watched",
        "fieldsplit_1_Mp_pc_type": "lu",
        **TIGHT,
    }
    Watched.seen.clear()
    J = inner(u, as_vector([y, -(x**2)])) * dx
    options = {"solver_parameters": parameters, "appctx": {"mu": mu}}
    femnn.solve(F == 0, w, bc, **options)
    assert Watched.seen[-1] == pytest.approx(femnn.assemble(mu * dx), rel=1e-5)
    assert np.ptp(Watched.seen) > 1e-3 * Watched.seen[-1], (
        f"{Watched.seen}: the viscosity has not changed"
    )
    found = solved(F, w.assign(0), law, J, bc, **options)
    check_same(found, solved(F, w.assign(0), law, J, bc, solver_parameters=MUMPS), 1e-6)
