"""The steps that build the environment, as data: nothing here runs a command.

Words in braces (``{env}``, ``{python}``, ``{wheels}``, ...: see ``build.py``) are filled in when a
command runs, so that a step's digest does not depend on where things lie.
"""

import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from install.pins import Pins, constraints, requirements

SOURCE = Path(__file__).parent


@dataclass(frozen=True)
class Command:
    """One command line; with ``creates``, it fills ``{out}``, which becomes that folder."""

    argv: tuple[str, ...]
    creates: str = ""


@dataclass(frozen=True)
class Step:
    """A part of the build that is done once and then stamped.

    Steps of the same ``stage`` run side by side; a stage starts when the one before it is done.
    ``digest`` covers the step itself and every earlier stage.
    """

    name: str
    what: str
    minutes: float
    stage: int
    commands: tuple[Command, ...]
    environ: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    digest: str = ""


def steps(pins: Pins) -> list[Step]:
    """Return the steps in order, each with its digest."""
    return with_digests(plan(pins), seed=platform_facts())


def with_documentation(before: list[Step], pins: Pins) -> list[Step]:
    """Return the steps and that of the documentation, which does not change the others' digests."""
    return [*before, with_digest(documentation(pins), [step.digest for step in before])]


def plan(pins: Pins) -> list[Step]:
    """Return the steps in order, still without digests.

    PETSc's configure runs on one core and petsc4py is a single large C file, so what does not
    depend on them (h5py, torch) is built and fetched beside them.
    """
    return [
        virtual_environment(pins),
        petsc(pins),
        h5py(pins),
        petsc4py(pins),
        torch(pins),
        firedrake(pins),
        tools(pins),
    ]


def virtual_environment(pins: Pins) -> Step:
    """Start from nothing, so that an interrupted or older attempt leaves no trace."""
    parts = ("bin", "include", "lib", "lib64", "pyvenv.cfg")
    return Step(
        name="venv",
        what="virtual environment and build tools",
        minutes=0.5,
        stage=0,
        commands=(
            Command(("rm", "-rf", *(f"{{env}}/{part}" for part in parts))),
            Command(("{system_python}", "-m", "venv", "{env}")),
            pip_install(*requirements(pins, "build")),
        ),
    )


def petsc(pins: Pins) -> Step:
    """PETSc from source against the system's libraries."""
    return Step(
        name="petsc",
        what=f"PETSc {pins['petsc']['petsc']}, compiled",
        minutes=6,
        stage=1,
        commands=from_source(pins, "petsc"),
        environ={"PETSC_CONFIGURE_OPTIONS": petsc_options()},
    )


def h5py(pins: Pins) -> Step:
    """h5py on parallel HDF5, for Firedrake's checkpoints."""
    return Step(
        name="h5py",
        what=f"mpi4py, and h5py {pins['h5py']['h5py']} compiled with MPI",
        minutes=3,
        stage=1,
        commands=(pip_install(*requirements(pins, "mpi")), *from_source(pins, "h5py")),
        environ={
            "CC": "mpicc",
            "HDF5_MPI": "ON",
            "HDF5_INCLUDEDIR": "/usr/include/hdf5/openmpi",
            "HDF5_LIBDIR": f"/usr/lib/{multiarch()}/hdf5/openmpi",
        },
    )


def petsc4py(pins: Pins) -> Step:
    """petsc4py: not kept as a wheel, because it holds the path of this environment's PETSc."""
    return Step(
        name="petsc4py",
        what=f"petsc4py {pins['petsc4py']['petsc4py']}, compiled",
        minutes=3,
        stage=2,
        commands=(compile_here(pins, "petsc4py"),),
        # Debug information doubles the time and memory of this one very large file.
        environ={"CFLAGS": "-g0 -O2", **petsc_location()},
    )


def torch(pins: Pins) -> Step:
    """PyTorch; pip's own settings decide where from, and so whether with CUDA."""
    return Step(
        name="torch",
        what=f"PyTorch {pins['torch']['torch']}",
        minutes=1,
        stage=2,
        commands=(pip_install(*requirements(pins, "torch")),),
    )


def firedrake(pins: Pins) -> Step:
    """Firedrake, after everything that it needs."""
    return Step(
        name="firedrake",
        what=f"Firedrake {pins['firedrake']['firedrake']}",
        minutes=1.5,
        stage=3,
        commands=(
            pip_install(*requirements(pins, "firedrake-needs")),
            compile_here(pins, "firedrake"),
        ),
        environ=petsc_location(),
    )


def tools(pins: Pins) -> Step:
    """What femnn, its tests and demos need besides; then pip's word that all fit together."""
    files = ("femnn_checkout.py", "femnn_checkout.pth")
    copies = tuple(f"{{source}}/site/{name}" for name in files)
    return Step(
        name="tools",
        what="what is left of femnn's needs, test and lint tools",
        minutes=0.5,
        stage=4,
        commands=(
            pip_install(*requirements(pins, "tools")),
            Command(("cp", *copies, "{site}")),
            Command(("{python}", "-m", "pip", "check")),
        ),
        inputs=(constraints(pins), *((SOURCE / "site" / name).read_text() for name in files)),
    )


def documentation(pins: Pins) -> Step:
    """What the documentation's site needs besides, in a folder that only its build looks into."""
    flags = ("--no-deps", "--upgrade", "--target", "{docs}")
    install = ("{python}", "-m", "pip", "install", *flags, *requirements(pins, "docs"))
    return Step(
        name="docs",
        what="what the documentation's site is built with",
        minutes=0.3,
        stage=5,
        commands=(Command(("rm", "-rf", "{docs}")), Command(install)),
    )


def pip_install(*arguments: str) -> Command:
    """Return the command that installs into the environment, all versions held to the pins."""
    constraint = ("--constraint", "{state}/constraints.txt")
    return Command(("{python}", "-m", "pip", "install", *constraint, *arguments))


def compile_here(pins: Pins, package: str) -> Command:
    """Return the command that compiles a package for this environment only.

    pip's cache of wheels is off: it would hand back one that was built with other options.
    """
    flags = ("--no-deps", "--no-build-isolation", "--no-cache-dir", "--force-reinstall")
    source_only = ("--no-binary", package)
    return pip_install(*flags, *source_only, *requirements(pins, package))


def from_source(pins: Pins, package: str) -> tuple[Command, ...]:
    """Return the commands that compile a package into a kept wheel and install that.

    The wheel's folder is named by the step's digest, so a later environment that differs only
    in other packages takes it as it is.
    """
    requirement = requirements(pins, package)
    flags = ("--no-deps", "--no-build-isolation", "--no-cache-dir", "--no-binary", package)
    compile_wheel = ("{python}", "-m", "pip", "wheel", "-v", *flags, "--wheel-dir", "{out}")
    kept = ("--no-deps", "--no-index", "--find-links", "{wheels}", "--force-reinstall")
    return (
        Command((*compile_wheel, *requirement), creates="{wheels}"),
        pip_install(*kept, *requirement),
    )


def petsc_location() -> dict[str, str]:
    """Return what tells a build where the environment's PETSc is."""
    return {"PETSC_DIR": "{site}/petsc", "PETSC_ARCH": ""}


def petsc_options() -> str:
    """Return the arguments of PETSc's configure.

    No ``-march=native``: the time is in the system's BLAS and in the kernels that Firedrake
    compiles for the processor at hand, and so the environment also runs on another machine.
    """
    hdf5 = f"/usr/lib/{multiarch()}/hdf5/openmpi"
    scotch = ("ptesmumps", "ptscotch", "ptscotcherr", "esmumps", "scotch", "scotcherr")
    scotch_libraries = ",".join(f"lib{name}.so" for name in scotch)
    options = (
        "--with-debugging=0",
        "--with-fortran-bindings=0",
        "--with-shared-libraries=1",
        "--with-c2html=0",
        # Otherwise configure takes any CUDA compiler that it finds on the path.
        "--with-cuda=0",
        "--COPTFLAGS=-O3",
        "--CXXOPTFLAGS=-O3",
        "--FOPTFLAGS=-O3",
        "--with-hdf5-include=/usr/include/hdf5/openmpi",
        f"--with-hdf5-lib=[{hdf5}/libhdf5.so,{hdf5}/libhdf5_hl.so]",
        "--with-hwloc",
        "--with-metis",
        "--with-mumps",
        "--with-ptscotch-include=/usr/include/scotch",
        f"--with-ptscotch-lib=[{scotch_libraries}]",
        "--with-scalapack-lib=-lscalapack-openmpi",
        "--with-suitesparse",
        "--with-superlu_dist-include=/usr/include/superlu-dist",
        "--with-superlu_dist-lib=-lsuperlu_dist",
        "--with-zlib",
    )
    return " ".join(options)


@cache
def multiarch() -> str:
    """Return Debian's name of the folder that holds this processor's libraries."""
    return f"{platform.machine()}-linux-gnu"


def platform_facts() -> str:
    """Return what else decides whether two builds can stand in for each other."""
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    system = [release.get(key, "") for key in ("ID", "VERSION_ID")]
    facts = [sys.implementation.cache_tag, platform.machine(), *platform.libc_ver(), *system]
    return json.dumps(facts)


def with_digests(plain: list[Step], seed: str) -> list[Step]:
    """Return the steps with the digest of each one's inputs and of all earlier stages."""
    done: list[Step] = []
    for step in plain:
        earlier = [before.digest for before in done if before.stage < step.stage]
        done.append(with_digest(step, [seed, *earlier]))
    return done


def with_digest(step: Step, before: list[str]) -> Step:
    """Return one step with its digest."""
    commands = [[*command.argv, command.creates] for command in step.commands]
    own = [step.name, commands, sorted(step.environ.items()), step.inputs]
    text = json.dumps([before, own])
    return replace(step, digest=hashlib.sha256(text.encode()).hexdigest())
