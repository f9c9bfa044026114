"""Parameters of a network under the names that they have in it.  Needs torch only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Named = Sequence[tuple[str, nn.Parameter]]


def parameter_tree(named: Named) -> nn.Module:
    """A module that holds these parameters, and nothing else, under these names.

    They stay the network's own: loading a state into the tree loads it into the network, also
    where torch is asked to exchange parameters (``load_state_dict(..., assign=True)``).
    """
    tree = nn.Module()
    for name, parameter in named:
        _place(tree, name).register_parameter(name.rpartition(".")[2], parameter)
    tree.register_load_state_dict_post_hook(partial(_keep, named))
    return tree


def current_parameters(tree: nn.Module, named: Named) -> list[Tensor]:
    """What stands under the names now: other tensors during ``torch.func.functional_call``."""
    present = dict(tree.named_parameters(remove_duplicate=False))
    return [present[name] for name, _ in named]


def _place(tree: nn.Module, name: str) -> nn.Module:
    """The module in the tree that holds the parameter of this name."""
    module = tree
    for part in name.split(".")[:-1]:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    return module


def _keep(named: Named, tree: nn.Module, keys: Any) -> None:
    """Copy what was loaded into the network's own parameters, and put these back."""
    with torch.no_grad():
        for (name, own), loaded in zip(named, current_parameters(tree, named), strict=True):
            own.copy_(loaded)
            _place(tree, name).register_parameter(name.rpartition(".")[2], own)
