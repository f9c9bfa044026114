"""PDELayer: a reduced functional as a torch module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyadjoint import ReducedFunctional
from torch import Tensor, nn

from femnn.autograd.differentiable import evaluate
from femnn.autograd.model import TapeModel
from femnn.autograd.names import current_parameters, parameter_tree


class PDELayer(nn.Module):
    """A recorded model as a torch module: tensors in, a loss, observed values or a field out.

    The controls of the reduced functional are the layer's inputs, except ``Weights``: these
    are the layer's parameters, the very ones of the networks inside the PDE.  So one torch
    optimiser trains the networks inside and those around it, and ``backward()`` fills the
    gradients of all.  Several forward calls may come before a backward.

    Parameters
    ----------
    Jhat
        The reduced functional.  Its functional may be a number, what :class:`~femnn.Stations` and
        other observables give, a Function or a Cofunction (an assembled residual).

    Attributes
    ----------
    Jhat : ReducedFunctional
        The reduced functional.
    networks : torch.nn.ModuleList
        For each ``Weights`` among the controls, in their order, the trainable parameters of
        its network under their names in it.

    Raises
    ------
    TypeError
        If a control is neither ``Weights``, a Function nor a Constant, or the functional is of
        another kind, or one of them is in a mixed space or a component of a vector field.

    Notes
    -----
    **Ranks.**  A field's tensor is rank-local: the values of the degrees of freedom that the
    rank owns, in the order of ``Function.dat.data_ro``, shape ``(n_owned,)`` or
    ``(n_owned, *value_shape)``; so are its gradients.  Numbers, Constants, Functions on the Real
    space and weights are the same on every rank, which is checked, and so are their gradients.
    Hence a loss or observed values that the layer gives are not to be summed over ranks again.
    From a field that the layer gives, each rank makes its own part of the loss and calls
    ``backward()`` on it: weights and Constants get the gradient of the sum of these parts.  A
    network outside that makes a field from rank-local data gets the rank's part of its gradient
    only: sum it over the ranks before the optimiser's step.  Forward and backward are collective.

    **Devices and dtypes.**  Values are computed in float64 on the CPU, and come back in the
    dtype and on the device of the first input (or parameter); each gradient in those of its
    tensor.

    **Samples.**  ``torch.vmap(layer)`` takes tensors with one more dimension, the samples, and
    evaluates one after the other.  ``torch.func.grad`` and ``functional_call`` work, ``vmap``
    over a gradient and forward mode (``torch.func.jvp``) do not.  Double backward is not
    possible: it raises an error; use ``Jhat.hessian`` for second derivatives.

    **Names and files.**  ``named_parameters()`` and ``state_dict()`` name a weight as its network
    does, after ``networks.`` and the network's place among the ``Weights``:
    ``networks.0.layers.0.weight``.  A network takes its part by
    ``net.load_state_dict(layer.networks[0].state_dict())``, or from a file by the names without
    that prefix.  Buffers, frozen parameters and second names of a shared one are the network's
    own and not in the layer's state: where a network has such, load with ``strict=False``, and
    save it with :func:`femnn.save`, or keep it as a submodule of the model beside the layer.

    On a tape with checkpointing a backward recomputes the model first, as the tape holds the
    state of one evaluation only.

    Examples
    --------
    >>> layer = PDELayer(ReducedFunctional(J, [Control(kappa.weights), Control(f)]))
    >>> loss = layer(encoder(attributes))
    >>> loss.backward()
    """

    def __init__(self, Jhat: ReducedFunctional):
        super().__init__()
        self.Jhat = Jhat
        self._model = TapeModel(Jhat)
        self._named = [weights.named_parameters() for weights in self._model.weights]
        self.networks = nn.ModuleList(parameter_tree(named) for named in self._named)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            "PDELayer: cannot be copied or pickled, as the model on the tape cannot be. Use one "
            "layer in all places, and save its state_dict()."
        )

    @property
    def n_inputs(self) -> int:
        """Number of tensors that :meth:`forward` takes."""
        return self._model.n_inputs

    def forward(self, *inputs: Tensor) -> Tensor:
        """Evaluate the model.  Collective.

        Parameters
        ----------
        *inputs
            One for each control that is not ``Weights``, in their order: a Constant's in its
            shape, a field's rank-local in shape ``(n_owned,)`` or ``(n_owned, *value_shape)``.

        Returns
        -------
        torch.Tensor
            A number, shape ``()``; observed values in their shape, the same on every rank; or a
            field's rank-local values, shape ``(n_owned, ...)``.

        Raises
        ------
        ValueError
            If the number or a shape of the inputs is not that of the controls.
        TypeError
            If an input is not a tensor or not of a floating dtype.
        RuntimeError
            If weights or Constants differ between ranks, or another rank has raised one of
            the above.
        firedrake.ConvergenceError
            If a solve fails.
        """
        self._model.raise_failure(self._wrong(inputs))
        pairs = zip(self.networks, self._named, strict=True)
        parameters = [p for tree, named in pairs for p in current_parameters(tree, named)]
        return evaluate(self._model, *inputs, *parameters)

    def _wrong(self, inputs: Sequence[Any]) -> Exception | None:
        """What is wrong with the inputs' number and kinds; rank-local."""
        if len(inputs) != self.n_inputs:
            return ValueError(
                f"PDELayer got {len(inputs)} inputs, wanted {self.n_inputs}: one for each control "
                "that is not Weights."
            )
        for tensor in inputs:
            if not isinstance(tensor, Tensor):
                return TypeError(
                    f"PDELayer got a {type(tensor).__name__}, wanted a torch.Tensor: "
                    "torch.as_tensor(x) makes one."
                )
        return None
