"""What a run has found, as files: numbers, a figure, networks and fields."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import firedrake as fd
import numpy as np
from mpi4py import MPI
from pyadjoint.tape import no_annotations
from torch import nn

from femnn.coefficient.coefficient import NeuralCoefficient
from femnn.export.files import atomic_file, save
from femnn.parallel import on_all_ranks, on_rank_zero


@no_annotations
def save_results(
    folder: str | Path,
    numbers: Mapping[str, Any],
    *,
    figure: Any = None,
    networks: Mapping[str, nn.Module] | None = None,
    fields: fd.Function | Sequence[fd.Function] | None = None,
    comm: MPI.Comm = MPI.COMM_WORLD,
) -> Path:
    """Write a run's numbers, figure, networks and fields into a folder.  Collective.

    The files are ``results.json``, ``figure.png``, ``NAME.safetensors`` for each network and
    ``fields/fields.pvd``.  Each appears, in the place of an older one, only when it is complete;
    the figure comes last, so that one that cannot be drawn costs nothing else.

    Parameters
    ----------
    folder
        Where to; made where it is missing.
    numbers
        What ``results.json`` holds: numbers, strings, ``None``, numpy scalars and arrays of
        any shape, and lists and dictionaries of these with strings as keys.  NaN and infinity,
        which JSON does not have, become ``null``.  Rank 0's are written.
    figure
        A matplotlib figure (or its axes), or a function without arguments that makes one.  It
        is drawn on rank 0, the only one where it is looked at.  The function is called on rank 0
        only, so nothing in it may be collective; its figure is closed afterwards.
    networks
        Networks by the names of their files; see :func:`femnn.save`.
    fields
        Functions on one mesh with different names, as ``VTKFile`` takes them.
    comm
        Ranks that call.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind; nothing is written.
    ValueError
        If a name cannot be a file's, fields share a name or lie on several meshes, or a network
        holds NaN; nothing is written.

    Examples
    --------
    >>> save_results("output/law", {"error": error}, networks={"law": net}, fields=[u])
    """
    networks = {} if networks is None else networks
    fields = [fields] if isinstance(fields, fd.Function) else list(fields or ())
    elsewhere = "save_results: another rank got arguments it cannot save."
    on_all_ranks(comm, _check, networks, fields, elsewhere=elsewhere)
    text = on_rank_zero(comm, _checked_text, numbers, figure)
    folder = Path(folder)
    on_rank_zero(comm, lambda: folder.mkdir(parents=True, exist_ok=True))
    for name, net in networks.items():
        save(net, folder / f"{name}.safetensors", comm=comm)
    if fields:
        _write_fields(folder, fields, comm)
    on_rank_zero(comm, _write_text, folder / "results.json", text)
    on_rank_zero(comm, _write_figure, folder / "figure.png", figure)
    return folder


def _check(networks: Any, fields: Any) -> None:
    _check_networks(networks)
    _check_fields(fields)


def _check_networks(networks: Any) -> None:
    if not isinstance(networks, Mapping):
        raise TypeError(
            f"save_results: networks is a {type(networks).__name__}, wanted a dictionary of "
            "networks by the names of their files, such as {'law': net}."
        )
    for name, net in networks.items():
        if not isinstance(net, nn.Module):
            raise TypeError(
                f"save_results: networks[{name!r}] is a {type(net).__name__}, wanted a torch "
                "module (of a coefficient kappa it is kappa.net)."
            )
        if name in ("", "..") or not isinstance(name, str) or Path(name).name != name:
            raise ValueError(
                f"save_results: networks has the name {name!r}, wanted one that a file can have."
            )
        if any(not bool(p.isfinite().all()) for p in net.parameters()):
            raise ValueError(
                f"save_results: a weight of networks[{name!r}] is NaN or infinite, nothing was "
                "written. Restore finite weights first."
            )


def _check_fields(fields: Sequence[Any]) -> None:
    for field in fields:
        if not isinstance(field, fd.Function) or isinstance(field, NeuralCoefficient):
            raise TypeError(
                f"save_results: fields holds a {type(field).__name__}, wanted Functions. Of a law "
                "of known operands femnn.evaluate gives the values at nodes, of a coefficient "
                "project(kappa.update(), V) gives a Function."
            )
        if len(field.function_space()) > 1:
            raise TypeError(
                f"save_results: {field.name()} has several parts, give them: *u.subfunctions."
            )
        if "Quadrature" in field.function_space().ufl_element().family():
            raise TypeError(
                f"save_results: {field.name()} has its values at quadrature points, which VTK "
                "files cannot hold: give project(field, V), with V such as P1."
            )
    names = [field.name() for field in fields]
    if len(set(names)) < len(names):
        raise ValueError(
            f"save_results: fields have the names {names!r}: give each its own, by "
            "Function(V, name=...) or u.rename(...)."
        )
    if len({field.function_space().mesh() for field in fields}) > 1:
        raise ValueError("save_results: fields lie on several meshes, one file holds those of one.")


def _checked_text(numbers: Any, figure: Any) -> str:
    """The text of results.json; checks what only rank 0 looks at."""
    if not isinstance(numbers, Mapping):
        raise TypeError(
            f"save_results: numbers is a {type(numbers).__name__}, wanted a dictionary."
        )
    if figure is not None and not callable(figure):
        _figure_of(figure)
    return json.dumps(plain("save_results", "numbers", numbers), indent=2, allow_nan=False) + "\n"


def plain(who: str, place: str, value: Any) -> Any:
    """A value as JSON can hold it; ``who`` asks, and ``place`` says where it stands."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise TypeError(f"{who}: {place} has the key {wrong[0]!r}, wanted strings.")
        return {key: plain(who, f"{place}[{key!r}]", item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(who, f"{place}[{k}]", item) for k, item in enumerate(value)]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise TypeError(
        f"{who}: {place} is a {type(value).__name__}, wanted a number, a string, None, an "
        "array, or a list or dictionary of these."
    )


def _figure_of(drawn: Any) -> Any:
    """The figure itself, or the one that axes belong to."""
    figure = drawn if hasattr(drawn, "savefig") else getattr(drawn, "figure", None)
    if not hasattr(figure, "savefig"):
        raise TypeError(
            f"save_results: figure is a {type(drawn).__name__}, wanted a matplotlib figure, its "
            "axes, or a function that makes one."
        )
    return figure


def _write_text(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _write_figure(path: Path, figure: Any | Callable[[], Any]) -> None:
    if figure is None:
        return
    drawn = _figure_of(figure() if callable(figure) else figure)
    with atomic_file(path) as temporary:
        drawn.savefig(temporary)
    if callable(figure):
        from matplotlib import pyplot

        pyplot.close(drawn)


def _write_fields(folder: Path, fields: Sequence[fd.Function], comm: MPI.Comm) -> None:
    """Write the folder of fields under another name, and exchange it for the last one."""
    temporary = on_rank_zero(comm, lambda: Path(tempfile.mkdtemp(prefix=".fields-", dir=folder)))
    try:
        _write_vtk(temporary / "fields.pvd", fields, comm)
        on_rank_zero(comm, _exchange_folder, temporary, folder / "fields")
    finally:
        if comm.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)


def _write_vtk(path: Path, fields: Sequence[fd.Function], comm: MPI.Comm) -> None:
    """Write all ranks' files; the failure of one rank is raised on all."""
    elsewhere = "save_results: another rank could not write its fields."
    on_all_ranks(comm, lambda: fd.VTKFile(str(path)).write(*fields), elsewhere=elsewhere)


def _exchange_folder(new: Path, place: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    new.chmod(0o777 & ~mask)
    if place.exists():
        last = Path(tempfile.mkdtemp(prefix=".fields-", dir=place.parent))
        place.replace(last)
        new.replace(place)
        shutil.rmtree(last, ignore_errors=True)
    else:
        new.replace(place)
