"""What ``femnn doctor`` does: say what is installed, then check that femnn works with it."""

import contextlib
import importlib
import importlib.metadata
import io
import os
import platform
import time
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

DISTRIBUTIONS = {
    "firedrake": "firedrake",
    "pyadjoint": "pyadjoint-ad",
    "torch": "torch",
    "numpy": "numpy",
    "scipy": "scipy",
    "petsc4py": "petsc4py",
    "mpi4py": "mpi4py",
    "h5py": "h5py",
    "checkpoint_schedules": "checkpoint_schedules",
    "safetensors": "safetensors",
    "lazy_loader": "lazy-loader",
    "tqdm": "tqdm",
}
"""Module to the distribution that carries its version."""

EXTERNAL = ("hdf5", "hypre", "metis", "mumps", "ptscotch", "superlu_dist", "umfpack")
"""The packages of PETSc's that change what a user of femnn can choose."""

WITH_FIREDRAKE = ("firedrake", "pyadjoint", "petsc4py", "mpi4py", "h5py")
"""What an installation of Firedrake brings; pip alone cannot build it."""

OPTIONAL = {
    "matplotlib": "figures (plot_law, report)",
    "irksome": "TimeStepper",
    "pandas": "tables of stations",
    "xarray": "data in netCDF files",
}
"""Module to what is missing without it."""

FIREDRAKES_CURE = (
    "`make env` in femnn's folder builds it with all else (Debian 12 or Ubuntu 24.04); then\n"
    'source "$(make -s env-path)/bin/activate". Or https://www.firedrakeproject.org/install, and\n'
    "`pip install .` of femnn in that environment."
)
BROKEN_CURE = (
    "`firedrake-clean` removes compiled kernels that another installation has left; gcc must be\n"
    "there (`gcc --version`). If it stays, the installation is damaged: `make env` builds another."
)

IMBALANCE = 1e-8
"""The greatest relative error of the solution's energy balance that passes."""

TAYLOR_ORDER = 1.9
"""The least observed order of the gradient's Taylor remainder that passes (2 is exact)."""


def run(self_check: bool = True) -> int:
    """Print the report; return 0 where nothing is missing and the self-check passes.

    Parameters
    ----------
    self_check
        Whether to solve a small problem and test its gradient after the versions are printed.
    """
    problems = report_packages()
    if not problems:
        print_rows(details())
        print_rows(optional())
    if problems:
        print("\nFAIL: " + "\n      ".join(problems))
        print(f"\nWhat to do: {cure(problems)}")
        return 1
    return run_self_check() if self_check else 0


def report_packages() -> list[str]:
    """Print the versions; return a line for each package that is missing or broken."""
    print_rows([("python", f"{platform.python_version()} on {platform.platform()}")])
    problems = []
    for module, distribution in DISTRIBUTIONS.items():
        problem = import_problem(module)
        print_rows([(module, "NOT USABLE" if problem else version(distribution))])
        if problem:
            problems.append(problem)
    return problems


def cure(problems: Iterable[str]) -> str:
    """Return what to do about the lines that :func:`report_packages` gave."""
    names = [problem.split(":")[0] for problem in problems]
    if any(name in WITH_FIREDRAKE for name in names):
        return FIREDRAKES_CURE
    return f"python -m pip install {' '.join(DISTRIBUTIONS[name] for name in names)}"


def optional() -> Iterator[tuple[str, str]]:
    """Yield each optional package: its version, or what is missing without it, and the cure."""
    for module, use in OPTIONAL.items():
        problem = import_problem(module)
        missing = f"not usable, so no {use}: python -m pip install {module}"
        yield module, missing if problem else version(module)


def import_problem(name: str) -> str | None:
    """Return why a module cannot be imported, or None where it can."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        return f"{name}: the module {error.name} is not installed."
    except Exception as error:  # a broken library may raise anything; the report must go on
        return f"{name}: installed, but its import fails: {type(error).__name__}: {error}"
    return None


def version(distribution: str) -> str:
    """Return the installed version of a distribution."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "version unknown"


def details() -> Iterator[tuple[str, str]]:
    """Yield what the versions do not tell: libraries, devices, threads."""
    from h5py import get_config
    from mpi4py import MPI

    torch = importlib.import_module("torch")
    yield "PETSc", petsc()
    yield "MPI", MPI.Get_library_version().split(",")[0].strip()
    yield "ranks", str(MPI.COMM_WORLD.size)
    yield (
        "HDF5",
        "parallel"
        if get_config().mpi
        else "serial, so files by several ranks fail: `make env` builds it with MPI",
    )
    yield "CUDA", cuda(torch)
    yield "threads", f"torch {torch.get_num_threads()}, {thread_advice()}"


def petsc() -> str:
    """Return PETSc's version, scalar type and external packages."""
    from numpy import dtype
    from petsc4py import PETSc

    number = ".".join(map(str, PETSc.Sys.getVersion()))
    scalar = dtype(PETSc.ScalarType).name
    present = [name for name in EXTERNAL if PETSc.Sys.hasExternalPackage(name)]
    return f"{number}, {scalar}, with {', '.join(present) or 'no external packages'}"


def cuda(torch: ModuleType) -> str:
    """Return the CUDA devices that PyTorch sees; without any, whether it was built for them."""
    built = torch.version.cuda
    if not torch.cuda.is_available():
        reason = f"PyTorch is built for CUDA {built}" if built else "PyTorch is built without CUDA"
        return f"no device, so networks run on the CPU ({reason})"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{built}: {', '.join(names)}"


def thread_advice() -> str:
    """Return how OMP_NUM_THREADS stands; Firedrake is parallel through MPI ranks."""
    value = os.environ.get("OMP_NUM_THREADS")
    return (
        f"OMP_NUM_THREADS={value}"
        if value
        else "OMP_NUM_THREADS is not set: export OMP_NUM_THREADS=1"
    )


def print_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Print label and value in two columns."""
    for label, value in rows:
        print(f"{label:<10} {value}", flush=True)


def run_self_check() -> int:
    """Run both checks and print the verdict; return 0 where both pass."""
    start = time.perf_counter()
    try:
        order, imbalance = solve_and_differentiate()
    except Exception as error:  # whatever stops it is the finding
        print(f"\nFAIL: the self-check stopped: {type(error).__name__}: {error}")
        print(f"\nWhat to do: {BROKEN_CURE}")
        return 1
    passed = order > TAYLOR_ORDER and imbalance < IMBALANCE
    print(f"\nsolve      energy balance off by {imbalance:.1e} (at most {IMBALANCE:.0e})")
    print(f"gradient   Taylor order {order:.3f} (at least {TAYLOR_ORDER})")
    print(f"{'PASS' if passed else 'FAIL'} in {time.perf_counter() - start:.1f} s")
    return 0 if passed else 1


def solve_and_differentiate() -> tuple[float, float]:
    """Solve a diffusion problem with a neural law; test the gradient in the weights.

    Returns
    -------
    tuple of float
        The least observed order of the Taylor remainder, and the relative error of the energy
        balance at the solution.
    """
    import firedrake.adjoint as fda
    from firedrake import assemble, dx

    was_annotating = fda.annotate_tape()
    with fda.set_working_tape():
        fda.continue_annotation()
        try:
            solution, kappa = solve()
            functional = fda.ReducedFunctional(
                assemble(solution**2 * dx), fda.Control(kappa.weights)
            )
        finally:
            if not was_annotating:
                fda.pause_annotation()
        imbalance = energy_imbalance(solution, kappa)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what is reported below
            order = fda.taylor_test(functional, kappa.weights, kappa.weights)
    return float(order), imbalance


def solve() -> tuple[Any, Any]:
    """Return solution and law of -div(kappa(u) grad u) = 1 in a square, u = 0 on its boundary."""
    import firedrake as fd

    import femnn

    space = fd.FunctionSpace(fd.UnitSquareMesh(8, 8), "CG", 1)
    u, v = fd.Function(space, name="u"), fd.TestFunction(space)
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 10, 1, output="softplus", seed=0), u)
    form = kappa * fd.inner(fd.grad(u), fd.grad(v)) * fd.dx - v * fd.dx
    femnn.solve(form == 0, u, bcs=fd.DirichletBC(space, 0, "on_boundary"))
    return u, kappa


def energy_imbalance(u: Any, kappa: Any) -> float:
    """Return the relative difference of dissipation and work: the equation tested with u itself."""
    from firedrake import assemble, dx, grad, inner
    from firedrake.adjoint import stop_annotating

    with stop_annotating():
        dissipation = assemble(kappa * inner(grad(u), grad(u)) * dx)
        work = assemble(u * dx)
    return float(abs(dissipation - work) / abs(work))
