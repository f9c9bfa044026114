"""Saving and loading of trained networks, and files that are never half-written."""

from __future__ import annotations

import json
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from mpi4py import MPI
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as as_bytes
from safetensors.torch import save_file
from torch import nn

from femnn.atomic import atomic_file
from femnn.evaluation.probe import check_module
from femnn.networks.config import Configured
from femnn.networks.inputs import FourierFeatures, InputScaling, PeriodicInputs
from femnn.networks.mlp import MLP, Gradient, Output
from femnn.networks.shapes import ConvexMLP, MonotoneMLP
from femnn.networks.symmetry import Even, Odd, SPDTensor, SymmetricTensor
from femnn.parallel import on_rank_zero, same_on_ranks

FORMAT = "femnn-network-1"
_KINDS: tuple[type[Configured], ...] = (
    MLP,
    MonotoneMLP,
    ConvexMLP,
    Odd,
    Even,
    SymmetricTensor,
    SPDTensor,
    Gradient,
    PeriodicInputs,
    FourierFeatures,
    InputScaling,
    Output,
)
BUILDERS: dict[str, type[Configured]] = {kind.__name__: kind for kind in _KINDS}


def save(
    net: nn.Module,
    path: str | Path,
    metadata: dict[str, Any] | None = None,
    comm: MPI.Comm = MPI.COMM_WORLD,
) -> None:
    """Save a network's parameters and buffers, without pickle.  Collective.

    The file is in the safetensors format, with what is needed to build the module again
    (for femnn's own networks, and a Sequential of them) in its header.  Rank 0 writes; the
    file appears only when it is complete.

    Parameters
    ----------
    net
        A torch module.
    path
        Where to.
    metadata
        Anything that JSON can hold, for example units and where the law was learned.
    comm
        Ranks that call.

    Raises
    ------
    ValueError
        If a parameter is NaN or infinite.
    RuntimeError
        If weights or buffers differ between ranks.
    """
    # Copies: safetensors refuses tensors that share memory, as those of a layer used twice.
    state = {k: v.detach().cpu().contiguous().clone() for k, v in net.state_dict().items()}
    if comm.size > 1 and not same_on_ranks(comm, as_bytes(state)):
        raise RuntimeError(
            f"save: weights or buffers of the {type(net).__name__} differ between ranks, nothing "
            f"was written to {path}. Where each rank has a network of its own, give each a path of "
            "its own and comm=MPI.COMM_SELF."
        )
    bad = _not_finite(state)
    if bad:
        raise ValueError(
            f"save: the network's {', '.join(bad)} holds NaN or infinity, nothing was written to "
            f"{path}. Restore finite weights first."
        )
    header = {
        "format": FORMAT,
        "class": type(net).__name__,
        "config": json.dumps(_config(net)),
        "metadata": json.dumps(metadata or {}),
        "checksum": _checksum(state),
    }

    def write() -> None:
        with atomic_file(path) as temporary:
            save_file(state, str(temporary), metadata=header)

    on_rank_zero(comm, write)


def load(path: str | Path, into: nn.Module | None = None) -> nn.Module:
    """Load a network that :func:`save` has written.

    Parameters
    ----------
    path
        The file.
    into
        A module of the same structure to fill, for networks that are not femnn's own.

    Returns
    -------
    torch.nn.Module
        The module, with the file's metadata as its attribute ``metadata``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    TypeError
        If ``into`` is not a torch module.
    ValueError
        If ``into`` has no values to fill (on the meta device), the file is damaged, holds NaN,
        was not written by :func:`save`, or does not fit ``into``.
    """
    path = Path(path)
    if not path.is_file():
        there = f"{path} is a folder" if path.is_dir() else f"there is no file {path}"
        raise FileNotFoundError(f"load: {there}. Give the path that save() got.")
    if into is not None:
        check_module(into)
    header, state = _read(path)
    net = into if into is not None else _rebuild(header, path)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        net.load_state_dict(before)  # torch has filled the parts that fit
        raise ValueError(
            f"load: the file {path} holds a {header['class']} that does not fit the module "
            f"{type(net).__name__}: {error}"
        ) from error
    net.metadata = json.loads(header["metadata"])
    return net


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"load: {path} is not a network file, or is damaged ({error}): wanted a file written "
            "by femnn.save. Use another copy of it."
        ) from error
    if header.get("format") != FORMAT:
        raise ValueError(
            f"load: {path} has the format {header.get('format')!r}, wanted {FORMAT!r}: it was not "
            "written by femnn.save."
        )
    if "checksum" in header and header["checksum"] != _checksum(state):
        raise ValueError(
            f"load: {path} is damaged: its weights are not those that were saved. Use another copy "
            "of it."
        )
    bad = _not_finite(state)
    if bad:
        raise ValueError(f"load: {path} holds NaN or infinity in {', '.join(bad)}.")
    return header, state


def _not_finite(state: dict[str, torch.Tensor]) -> list[str]:
    return [k for k, v in state.items() if v.is_floating_point() and not torch.isfinite(v).all()]


def _checksum(state: dict[str, torch.Tensor]) -> str:
    return f"{zlib.crc32(as_bytes(dict(sorted(state.items())))):08x}"


def _config(net: nn.Module) -> dict[str, Any] | None:
    """The module's configuration, if it is enough to build the module again."""
    if len(list(net.modules())) < len(list(net.named_modules(remove_duplicate=False))):
        return None  # a layer that is used twice would come back as two
    try:
        return _describe(net)["config"]
    except LookupError:
        return None


def _describe(net: nn.Module) -> dict[str, Any]:
    """Class and configuration of a module and of those that it is built of."""
    name = type(net).__name__
    if type(net) is nn.Sequential:
        config = dict(net.named_children())
    elif isinstance(net, Configured) and BUILDERS.get(name) is type(net):
        config = net.config
    else:
        raise LookupError(name)
    parts = {k: _describe(v) if isinstance(v, nn.Module) else v for k, v in config.items()}
    return {"class": name, "config": parts}


def _build(name: str, config: dict[str, Any]) -> Any:
    """The module that :func:`_describe` has described."""
    parts = {
        k: _build(v["class"], v["config"]) if isinstance(v, dict) else v for k, v in config.items()
    }
    if name == "Sequential":
        return nn.Sequential(OrderedDict(parts))
    if name not in BUILDERS:
        raise LookupError(name)
    return BUILDERS[name].from_config(parts)


def _rebuild(header: dict[str, str], path: Path) -> nn.Module:
    name, config = header["class"], json.loads(header["config"])
    try:
        if config is None:
            raise LookupError(name)
        return _build(name, config)
    except LookupError as error:
        raise ValueError(
            f"load: {path} holds a {name}, which femnn cannot build by itself (it "
            f"builds {', '.join(BUILDERS)}, and a Sequential of them): make the module and give "
            "it as load(path, into=net)."
        ) from error
