"""Ensembles: equal to the sum of their members one by one, on any number of ranks."""

import numpy as np
import pytest
import torch
from checkpoint_schedules import Revolve
from firedrake import *
from firedrake.adjoint import *
from mpi4py import MPI

import femnn
from femnn.tape.columns import gauss_newton_matrix
from femnn.tape.curvature import gauss_newton_product

TIGHT = {"snes_rtol": 1e-12, "snes_atol": 1e-14}
SITES = [(4, 1.0), (6, 2.0), (5, 3.0)]  # cells, source


@pytest.fixture
def folder(tmp_path):
    """The same on all ranks."""
    return MPI.COMM_WORLD.bcast(tmp_path)


def networks():
    """A law inside of the models, and what gives each site its coefficient."""
    law = femnn.MLP(1, 4, 1, output="softplus", seed=1)
    return law, femnn.MLP(1, 3, 1, output="softplus", seed=2)


def builder(law, encoder, fails=None):
    """Record a site: diffusion with the law, exchange by the encoder, a misfit at stations."""

    def build(site, comm):
        cells, source = site
        mesh = UnitIntervalMesh(cells, comm=comm)
        V = FunctionSpace(mesh, "CG", 1)
        u, v = Function(V), TestFunction(V)
        attribute = torch.tensor([source / 3], dtype=torch.float64)
        theta = femnn.apply(Attribute(encoder, attribute), into=Constant([0.0]))
        kappa = femnn.NeuralCoefficient(law, u)
        F = kappa * inner(grad(u), grad(v)) * dx - source * v * dx + theta[0] * (u - 1) * v * ds(2)
        femnn.solve(F == 0, u, DirichletBC(V, 0, 1), solver_parameters=TIGHT)
        stations = femnn.Stations(mesh, [[0.31], [0.77]])
        return femnn.Observations(stations, [0.2 * source, 0.3], std=0.5).misfit(u)

    return build


class Attribute(torch.nn.Module):
    """A network at a site's attribute."""

    def __init__(self, net, attribute):
        super().__init__()
        self.net, self.attribute = net, attribute

    def forward(self):
        return self.net(self.attribute)


def one_by_one(law, encoder, sites=SITES):
    """Reduced functionals of the members on this rank alone."""
    found = []
    weights = [femnn.Weights.of(net) for net in (law, encoder)]
    for site in sites:
        with set_working_tape(Tape()) as tape:
            continue_annotation()
            for w in weights:
                w.clear_block_variable()
            J = builder(law, encoder)(site, MPI.COMM_SELF)
            controls = [Control(w) for w in weights]
            pause_annotation()
            found.append(ReducedFunctional(J, controls, tape=tape))
    return found


def points(law, encoder, seed=0, size=0.3):
    rng = np.random.default_rng(seed)
    weights = [femnn.Weights.of(net) for net in (law, encoder)]
    return [w.like(w.vector + size * rng.standard_normal(len(w))) for w in weights]


def joined(values):
    return np.concatenate([v.vector for v in values])


@pytest.mark.parallel([1, 2, 3])
@pytest.mark.parametrize("together", [False, True])
def test_all_derivatives_are_the_sums_of_the_members(together):
    """Value, gradient, tangent, Hessian and Gauss-Newton products; meshes differ."""
    law, encoder = networks()
    size = MPI.COMM_WORLD.size if together else 1
    Jhat = femnn.ensemble(builder(law, encoder), SITES, [law, encoder], ranks_per_member=size)
    members = one_by_one(law, encoder)
    at, direction = points(law, encoder), points(law, encoder, seed=1)
    losses = [member(at) for member in members]
    assert Jhat(at) == pytest.approx(sum(losses), rel=1e-11)
    np.testing.assert_allclose(Jhat.losses, losses, rtol=1e-11)
    expected = sum(joined(m.derivative()) for m in members)
    np.testing.assert_allclose(joined(Jhat.derivative()), expected, rtol=1e-9, atol=1e-13)
    assert Jhat.tlm(direction) == pytest.approx(sum(m.tlm(direction) for m in members), rel=1e-9)
    for _ in range(2):
        expected = sum(joined(m.hessian(direction)) for m in members)
        action = joined(Jhat.hessian(direction))
        assert np.linalg.norm(action - expected) <= 1e-10 * np.linalg.norm(expected)
        # This leaves nothing on the tapes that the next Hessian action takes for its own.
        product = gauss_newton_product(Jhat.functional, Jhat.controls, direction, Jhat.tape)
        expected = sum(
            joined(gauss_newton_product(m.functional, m.controls, direction, m.tape))
            for m in members
        )
        assert np.linalg.norm(joined(product) - expected) <= 1e-10 * np.linalg.norm(expected)
        matrix = gauss_newton_matrix(Jhat.functional, Jhat.controls, Jhat.tape)
        np.testing.assert_allclose(matrix @ joined(direction), expected, rtol=1e-7, atol=1e-10)
        Jhat.derivative()
        for m in members:
            m.derivative()


@pytest.mark.parallel([1, 2, 3])
def test_taylor():
    law, encoder = networks()
    Jhat = femnn.ensemble(builder(law, encoder), SITES[:2], [law, encoder], mean=True)
    at, direction = points(law, encoder), points(law, encoder, seed=1)
    Jhat(at)
    gradient, slope = Jhat.derivative(), Jhat.tlm(direction)
    assert joined(gradient) @ joined(direction) == pytest.approx(slope, rel=1e-10)
    rates = taylor_to_dict(Jhat, at, direction)
    assert min(rates["R1"]["Rate"]) > 1.9
    assert min(rates["R2"]["Rate"]) > 2.9


def small(law, iterations=lambda member: 50):
    """One equation with one law, a loss that is an integral."""

    def build(member, comm):
        cells, source = member
        V = FunctionSpace(UnitIntervalMesh(cells, comm=comm), "CG", 1)
        u, v = Function(V), TestFunction(V)
        kappa = femnn.NeuralCoefficient(law, u)
        F = kappa * inner(grad(u), grad(v)) * dx - source * v * dx
        bc, parameters = DirichletBC(V, 0, "on_boundary"), {"snes_max_it": iterations(member)}
        femnn.solve(F == 0, u, bc, solver_parameters=TIGHT | parameters)
        target = 0.1 * source
        return femnn.assemble(0.5 * (u - target) ** 2 * dx)

    return build


METHODS = ["L-BFGS", "Adam", "gauss-newton", "newton-cg", "bqnls", "bntr"]


@pytest.mark.parallel(2)
@pytest.mark.parametrize("method", METHODS)
def test_fit_goes_the_same_way_on_any_number_of_ranks(method):
    """Also what a training costs is the same: all that all ranks do."""
    law, _ = networks()
    start = femnn.Weights.of(law).vector.copy()
    results = []
    for comm in (MPI.COMM_WORLD, MPI.COMM_SELF):
        femnn.Weights.of(law).assign(start)
        Jhat = femnn.ensemble(small(law), SITES, law, comm=comm)
        results.append(femnn.fit(Jhat, method, maxiter=4, gtol=0.0, progress=False))
    here, alone = results
    assert here.loss < here.initial_loss == pytest.approx(alone.initial_loss, rel=1e-14)
    assert here.loss == pytest.approx(alone.loss, rel=1e-5)
    assert here.solves.forward == alone.solves.forward
    assert here.solves.tangent == alone.solves.tangent
    assert here.solves.linear == pytest.approx(alone.solves.linear, rel=0.05)


@pytest.mark.parallel([1, 2])
@pytest.mark.parametrize("method", ["L-BFGS", "gauss-newton"])
def test_a_training_goes_on(method, folder):
    """Bit for bit, as that of any other model."""
    law, _ = networks()
    start = femnn.Weights.of(law).vector.copy()
    settings = {"gtol": 0.0, "progress": False, "checkpoint_every": 2}
    known = []
    for name, lengths in {"whole": [6], "parts": [3, 6]}.items():
        for i, maxiter in enumerate(lengths):
            femnn.Weights.of(law).assign(start)
            Jhat = femnn.ensemble(small(law), SITES, law)
            where = {"checkpoint": folder / name, "resume": i > 0}
            result = femnn.fit(Jhat, method, maxiter=maxiter, **where, **settings)
        known.append(result)
    assert known[0].loss == pytest.approx(known[1].loss, rel=1e-10)
    np.testing.assert_allclose(known[0].weights, known[1].weights, rtol=1e-8)
    assert known[0].solves.forward > 0


@pytest.mark.parallel([1, 2, 3])
def test_torch_optimiser_and_parts_of_the_members():
    """Steps on parts; the gradient belongs to the part that gave the value."""
    law, _ = networks()
    Jhat = femnn.ensemble(small(law), SITES, law)
    layer = femnn.PDELayer(Jhat)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.01)
    with Jhat.batch([0]):
        first = layer()
    with Jhat.batch([2, 1]):
        rest = layer()
    losses = Jhat.losses
    assert np.isnan(losses[0])
    assert rest.item() == pytest.approx(1.5 * losses[1:].sum(), rel=1e-14)
    whole = layer()
    assert whole.item() == pytest.approx((first.item() + 2 * rest.item()) / 3, rel=1e-12)
    gradients = []
    for loss in (first, rest, whole):
        optimiser.zero_grad()
        loss.backward()
        gradients.append(torch.cat([p.grad.ravel() for p in layer.parameters()]).numpy())
    np.testing.assert_allclose(gradients[2], (gradients[0] + 2 * gradients[1]) / 3, rtol=1e-8)
    for batch in torch.tensor([2, 0, 1, 1, 0, 2]).split(1):
        optimiser.zero_grad()
        with Jhat.batch(batch.tolist()):
            layer().backward()
        optimiser.step()
    assert layer().item() < whole.item()
    result = femnn.fit(Jhat, torch.optim.SGD(law.parameters(), lr=0.1), maxiter=3, progress=False)
    assert result.loss < result.initial_loss


@pytest.mark.parallel([1, 2, 3])
def test_priors_are_added_outside():
    law, _ = networks()
    weights = femnn.Weights.of(law)
    continue_annotation()
    part = femnn.ensemble(small(law), SITES[:2], law)
    J = 2.0 * part.functional + 1e-3 * weights.squared_norm()
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(weights))
    point, direction = points(law, law)[0], points(law, law, seed=1)[0]
    expected = 2 * part(point) + 1e-3 * point.vector @ point.vector
    assert Jhat(point) == pytest.approx(expected, rel=1e-13)
    gradient = 2 * part.derivative().vector + 2e-3 * point.vector
    np.testing.assert_allclose(Jhat.derivative().vector, gradient, rtol=1e-12)
    part.derivative()
    action = 2 * part.hessian(direction).vector + 2e-3 * direction.vector
    Jhat.derivative()
    np.testing.assert_allclose(Jhat.hessian(direction).vector, action, rtol=1e-9)


@pytest.mark.parallel([1, 2, 3])
def test_a_solve_that_fails_in_one_group_is_a_rejected_step_in_all():
    """Away from the start the last member does not converge: all ranks come back."""
    law, _ = networks()
    Jhat = femnn.ensemble(small(law, lambda m: 4 if m[0] == 5 else 50), SITES, law)
    weights = femnn.Weights.of(law)
    value, gradient = Jhat(weights), Jhat.derivative().vector
    with pytest.raises(ConvergenceError, match="member 2 of the ensemble: Nonlinear"):
        Jhat(points(law, law, size=1.0)[0])
    assert Jhat(weights) == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(Jhat.derivative().vector, gradient, rtol=1e-8)
    result = femnn.fit(Jhat, torch.optim.SGD(law.parameters(), lr=1e3), maxiter=4, progress=False)
    assert result.rejected > 0
    assert "of the ensemble" in result.rejections[0].reason


@pytest.mark.parallel([1, 2, 3])
def test_fewer_members_than_ranks():
    law, _ = networks()
    Jhat = femnn.ensemble(small(law), SITES[:1], law)
    alone = femnn.ensemble(small(law), SITES[:1], law, comm=MPI.COMM_SELF)
    point = points(law, law)[0]
    assert Jhat(point) == alone(point)
    np.testing.assert_array_equal(Jhat.derivative().vector, alone.derivative().vector)


@pytest.mark.parallel([1, 2, 3])
def test_an_error_in_one_member_is_one_on_all_ranks():
    law, _ = networks()

    def build(member, comm):
        if member[0] == 5:
            raise KeyError("no data")
        return small(law)(member, comm)

    with pytest.raises((KeyError, RuntimeError), match="no data"):
        femnn.ensemble(build, SITES, law)
    with pytest.raises(ConvergenceError, match="member 1"):
        femnn.ensemble(small(law, lambda m: 1 if m[0] == 6 else 50), SITES, law)


@pytest.mark.parallel([1, 2])
def test_a_schedule_is_a_members_own():
    """Steps in time under a schedule: the derivatives of the plain tape."""
    law, _ = networks()

    def build(member, comm, schedule=None):
        cells, source = member
        tape = get_working_tape()
        if schedule is not None:
            tape = femnn.enable_checkpointing(schedule())
        V = FunctionSpace(UnitIntervalMesh(cells, comm=comm), "CG", 1)
        u, last, v = Function(V), Function(V), TestFunction(V)
        kappa = femnn.NeuralCoefficient(law, u)
        F = 9 * (u - last) * v * dx + kappa * inner(grad(u), grad(v)) * dx - source * v * dx
        problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, 1))
        solver = femnn.NeuralVariationalSolver(problem, solver_parameters=TIGHT)
        J = 0.0
        for _ in tape.timestepper(iter(range(3))):
            solver.solve()
            last.assign(u)
            J += femnn.assemble(u**2 * dx)
        return J

    def scheduled(member, comm):
        return build(member, comm, lambda: Revolve(3, 1))

    plain, kept = (femnn.ensemble(b, SITES[:2], law) for b in (build, scheduled))
    point, direction = points(law, law)[0], points(law, law, seed=1)[0]
    found = []
    for Jhat in (plain, kept):
        value, gradient = Jhat(point), Jhat.derivative().vector
        hessian = Jhat.hessian(direction).vector
        product = gauss_newton_product(Jhat.functional, Jhat.controls, [direction], Jhat.tape)
        (product,) = [p.vector for p in product]
        found.append([value, *gradient, *hessian, *product])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parallel([1, 2])
def test_constants_and_fields():
    """A field where all ranks compute each member, and a Constant of two numbers."""
    comm = MPI.COMM_WORLD
    mesh = UnitIntervalMesh(6, comm=comm)
    V = FunctionSpace(mesh, "CG", 1)
    f, c = Function(V, name="f").assign(1.0), Constant([1.0, 2.0])

    def build(member, _):
        u, v = Function(V), TestFunction(V)
        F = (1 + c[0] * u**2) * inner(grad(u), grad(v)) * dx - member * f * v * dx
        femnn.solve(F == 0, u, DirichletBC(V, 0, 1), solver_parameters=TIGHT)
        return femnn.assemble((u - c[1] * member) ** 2 * dx)

    Jhat = femnn.ensemble(build, [1.0, 2.0], [f, c], ranks_per_member=comm.size)
    direction = [Function(V).assign(0.3), Constant([0.2, -0.4])]
    rates = taylor_to_dict(Jhat, [f, c], direction)
    assert min(rates["R1"]["Rate"]) > 1.9
    assert min(rates["R2"]["Rate"]) > 2.9
    result = femnn.fit(Jhat, "gauss-newton", maxiter=1, progress=False)
    assert result.loss < result.initial_loss
    if comm.size > 1:
        with pytest.raises(ValueError, match="f is a field"):
            femnn.ensemble(build, [1.0, 2.0], [f, c])


def state(law, V):
    """A solution that depends on a law."""
    u, v = Function(V, name="u"), TestFunction(V)
    F = femnn.NeuralCoefficient(law, u) * inner(grad(u), grad(v)) * dx - v * dx
    femnn.solve(F == 0, u, DirichletBC(V, 0, 1))
    return u


def test_values_that_members_use_in_common_keep_what_each_had():
    """Data in one Function, which build changes without being recorded."""
    law, _ = networks()
    V = FunctionSpace(UnitIntervalMesh(4), "CG", 1)
    data, c = Function(V), Constant(0.0)
    continue_annotation()
    data.dat.data[:] = 7.0
    before = femnn.assemble(data**2 * dx)

    def build(member, _):
        data.dat.data[:] = member
        c.assign(member)
        return femnn.assemble((state(law, V) - c * data) ** 2 * dx)

    Jhat = femnn.ensemble(build, [0.5, 1.0, 2.0], law)
    pause_annotation()
    losses = Jhat.losses
    assert len(set(losses)) == 3
    Jhat(femnn.Weights.of(law))
    np.testing.assert_allclose(Jhat.losses, losses, rtol=1e-9)
    assert ReducedFunctional(before, Control(c))(c) == pytest.approx(49.0)


@pytest.mark.parallel([1, 2])
def test_a_control_that_members_take_for_data_is_an_error():
    law, _ = networks()
    c = Constant(1.0, name="c")

    def build(member, comm):
        V = FunctionSpace(UnitIntervalMesh(4, comm=comm), "CG", 1)
        return femnn.assemble(c * state(law, V) ** 2 * dx)

    Jhat = femnn.ensemble(build, [0], law)
    both = ReducedFunctional(Jhat.functional, [*Jhat.controls, Control(c)], tape=Jhat.tape)
    with pytest.raises(ValueError, match="c is a control, and members of an ensemble use it"):
        femnn.fit(both, maxiter=1, progress=False)


def test_what_would_be_a_wrong_derivative_is_an_error():
    law, encoder = networks()
    V = FunctionSpace(UnitIntervalMesh(4), "CG", 1)
    known = []

    def remembers(member, _):
        known.append(state(law, V))
        return femnn.assemble(known[0] ** 2 * dx)

    continue_annotation()
    u = state(law, V)
    pause_annotation()
    with pytest.raises(ValueError, match="computed from the controls outside"):
        femnn.ensemble(lambda member, _: femnn.assemble((state(law, V) + u) ** 2 * dx), [0], law)
    with pytest.raises(ValueError, match="for another member"):
        femnn.ensemble(remembers, [0, 1], law)
    with pytest.raises(ValueError, match="none of the controls"):
        femnn.ensemble(builder(law, encoder), SITES, law)
    with pytest.raises(ValueError, match="no member's loss depends on"):
        femnn.ensemble(small(law), SITES, [law, encoder])

    def changes(member, comm):
        weights = femnn.Weights.of(law)
        weights.assign(1.1 * weights.vector)
        return small(law)(member, comm)

    with pytest.raises(RuntimeError, match="build changes MLP"):
        femnn.ensemble(changes, SITES, law)
    with pytest.raises(TypeError, match="returned a float"):
        femnn.ensemble(lambda member, _: 1.0, SITES, law)
    with pytest.raises(ValueError, match="no members"):
        femnn.ensemble(small(law), [], law)
    with pytest.raises(ValueError, match="no controls"):
        femnn.ensemble(small(law), SITES, [])
    with pytest.raises(ValueError, match="divisor"):
        femnn.ensemble(small(law), SITES, law, ranks_per_member=2)
    Jhat = femnn.ensemble(small(law), SITES, law)
    with pytest.raises(
        ValueError, match="laplace: the loss of member 0 of the ensemble has no misfit"
    ):
        femnn.laplace(Jhat)
    for batch in ([], [0, 0], [3]):
        with pytest.raises(ValueError, match="places of members"), Jhat.batch(batch):
            pass


@pytest.mark.parallel(2)
def test_a_mesh_on_other_ranks_is_named():
    law, _ = networks()
    with pytest.raises((ValueError, RuntimeError), match="a model was built on 2 ranks"):
        femnn.ensemble(lambda m, _: small(law)(m, MPI.COMM_WORLD), SITES[:1] * 2, law)


@pytest.mark.parallel([2, 3])
def test_what_differs_between_ranks_is_an_error():
    law, _ = networks()
    Jhat = femnn.ensemble(small(law), SITES, law)
    point = points(law, law, seed=MPI.COMM_WORLD.rank)[0]
    with pytest.raises(RuntimeError, match="differ between ranks"):
        Jhat(point)
    with (
        pytest.raises(RuntimeError, match="differ between ranks"),
        Jhat.batch([MPI.COMM_WORLD.rank]),
    ):
        Jhat(femnn.Weights.of(law))
