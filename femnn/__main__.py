"""Command line: ``python -m femnn`` and, where femnn is installed, ``femnn``."""

import argparse
import sys

from femnn import doctor, project


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit status.

    Parameters
    ----------
    argv
        The arguments; by default those of the process. Without any, ``doctor`` is run.
    """
    arguments = parser().parse_args(argv)
    if argv is None:
        # PETSc, which Firedrake starts, would take them for its own and warn that none is used.
        del sys.argv[1:]
    return int(arguments.run(arguments))


def parser() -> argparse.ArgumentParser:
    """Return the parser, with one subparser for each command."""
    top = argparse.ArgumentParser(
        prog="femnn", description="PyTorch networks inside Firedrake finite element models."
    )
    top.set_defaults(run=run_doctor, versions_only=False)
    commands = top.add_subparsers(title="commands")
    check = commands.add_parser("doctor", help="print versions and run a ten-second self-check")
    check.add_argument("--versions-only", action="store_true", help="leave the self-check out")
    check.set_defaults(run=run_doctor)
    new = commands.add_parser("new", help="write a small project to start from")
    new.add_argument("name", help="the folder to make, such as my_inversion")
    new.set_defaults(run=run_new)
    return top


def run_doctor(arguments: argparse.Namespace) -> int:
    """Carry out ``femnn doctor``."""
    return doctor.run(self_check=not arguments.versions_only)


def run_new(arguments: argparse.Namespace) -> int:
    """Carry out ``femnn new``."""
    return project.run(arguments.name)


if __name__ == "__main__":
    sys.exit(main())
