"""The weights of a network as a pyadjoint control."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
from mpi4py import MPI
from pyadjoint import AdjFloat
from pyadjoint.tape import annotate_tape, get_working_tape
from torch import Tensor, nn

from femnn.evaluation.parameters import ParameterVector
from femnn.parallel import same_on_ranks
from femnn.tape.arithmetic import SquaredNormBlock, VectorArithmetic
from femnn.tape.control import VectorControl
from femnn.tape.replay import check_schedule
from femnn.tape.shared import follow, introduce

# One Weights for each set of parameters, so that modules which share them share the control.
_known: weakref.WeakValueDictionary[tuple[int, ...], Weights] = weakref.WeakValueDictionary()


class Weights(VectorArithmetic, VectorControl):
    """The trainable parameters of a network as one flat vector, a pyadjoint control.

    :meth:`of` gives those of a network.  Coefficients whose networks share all their parameters
    share one ``Weights``; where networks share some, the tape lets the second one's follow the
    first one's.  The vector is the same on every rank.  Evaluating a reduced functional at other
    weights leaves the network as it is; only :meth:`assign` and torch change it.

    Sums, differences, products and quotients (entry by entry, with another ``Weights``, a
    number or an array) are new values that belong to no network, ``w += d`` included; where
    annotation is on, those of a network's weights are recorded.  Numpy takes a ``Weights``
    for its vector: ``np.asarray(gradient)``, ``np.linalg.norm(gradient)``.

    Parameters
    ----------
    parameters
        The parameters that this object stands for, or ``None`` for a value that belongs to
        no network (a direction, a gradient, a point at which to evaluate).
    vector
        The value, shape ``(n_weights,)``, where ``parameters`` is ``None``.
    name
        Name in the tape's graph.
    comm
        The ranks that hold the same vector.
    names
        The parameters' names in the network, one for each.

    Examples
    --------
    >>> gradient = Jhat.derivative()
    >>> kappa.weights.assign(kappa.weights - 0.1 * gradient)
    >>> J += 1e-6 * (kappa.weights - start).squared_norm()
    """

    def __init__(
        self,
        parameters: ParameterVector | None = None,
        vector: np.ndarray | None = None,
        name: str = "weights",
        comm: MPI.Comm = MPI.COMM_SELF,
        names: Sequence[str] = (),
    ):
        super().__init__()
        self.name, self.comm = name, comm
        self._parameters = parameters
        self._names = tuple(names)
        self._recorded: np.ndarray | None = None
        self.sharing: weakref.WeakSet[Weights] = weakref.WeakSet()
        if parameters is None:
            self._vector = _read_only(np.array(vector, dtype=float))

    @classmethod
    def of(cls, net: nn.Module, comm: MPI.Comm = MPI.COMM_SELF) -> Weights:
        """The weights of a module.  Collective.

        Parameters
        ----------
        net
            Any torch module.  Parameters with ``requires_grad=False`` are not part of it.
        comm
            The communicator of the mesh on which the module is used; its ranks must hold the
            same values.

        Returns
        -------
        Weights
            The same object for all modules that share all their parameters; it knows these by
            their names in the first of the modules.

        Raises
        ------
        TypeError
            If ``net`` is not a torch module.
        RuntimeError
            If the values differ between ranks.
        """
        if not isinstance(net, nn.Module):
            raise TypeError(
                f"Weights.of got a {type(net).__name__}, wanted a torch.nn.Module: wrap a function "
                "in a module."
            )
        parameters = ParameterVector(net.parameters())
        weights = _known.get(parameters.key)
        if weights is None:
            names = [name for name, p in net.named_parameters() if p.requires_grad]
            weights = cls(parameters, name=type(net).__name__, comm=comm, names=names)
            introduce(weights, _known.values())
            _known[parameters.key] = weights
        if comm.size > weights.comm.size:
            weights.comm = comm
        weights.check_ranks(comm)
        return weights

    @property
    def vector(self) -> np.ndarray:
        """The current value, shape ``(n_weights,)``, read-only; the same on every rank."""
        return self._vector if self._parameters is None else _read_only(self._parameters.read())

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The network's trainable parameters; none for a value that belongs to no network."""
        return [] if self._parameters is None else list(self._parameters.tensors)

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The network's trainable parameters, each with its name in the network.

        Returns
        -------
        list of (str, torch.nn.Parameter)
            In torch's order; none for a value that belongs to no network.
        """
        return list(zip(self._names, self.parameters, strict=True))

    def split(self, vector: np.ndarray) -> list[Tensor]:
        """A vector as tensors in the parameters' shapes.

        Parameters
        ----------
        vector
            Shape ``(n_weights,)``.

        Returns
        -------
        list of torch.Tensor
            One for each parameter, of its shape, dtype and device.
        """
        return [] if self._parameters is None else self._parameters.split(vector) or []

    def loaded(
        self, vector: np.ndarray | None, trainable: bool
    ) -> AbstractContextManager[list[Tensor]]:
        """Let the network use other weights inside a block, and give it its own back afterwards.

        Parameters
        ----------
        vector
            Shape ``(n_weights,)``; ``None`` for the network's own.
        trainable
            Whether torch shall record what the gradient of the weights needs.

        Returns
        -------
        context manager
            Enters with the parameters as tensors, each of its own shape.

        Raises
        ------
        ValueError
            If this value belongs to no network.
        """
        if self._parameters is None:
            raise ValueError(
                f"{self.name}: this value belongs to no network that could be evaluated, as those "
                "of Weights.of(net) do."
            )
        return self._parameters.loaded(vector, trainable)

    def assign(self, value: Weights | np.ndarray) -> Weights:
        """Set the network's parameters.

        What is on the tape keeps its value; where annotation is on, what is recorded from now on
        uses a new node.

        Parameters
        ----------
        value
            Another ``Weights`` or a vector of shape ``(n_weights,)``, the same on all ranks.

        Returns
        -------
        Weights
            This object.

        Raises
        ------
        ValueError
            If the shape differs or a value is not finite.
        """
        vector = value.vector if isinstance(value, Weights) else np.asarray(value, dtype=float)
        self.check(vector)
        if self._parameters is None:
            self._vector = _read_only(vector.copy())
        else:
            self._parameters.write(vector)
        if annotate_tape():
            self.create_block_variable()
            self._recorded = None
        return self

    def like(self, vector: np.ndarray) -> Weights:
        """A value of the same length that belongs to no network.

        Use it for directions and points: ``Jhat(weights.like(w))``.

        Parameters
        ----------
        vector
            Shape ``(n_weights,)``, the same on all ranks; it is copied.

        Returns
        -------
        Weights
            The new value.

        Raises
        ------
        ValueError
            If the shape differs.
        """
        self._check_shape(vector := np.asarray(vector, dtype=float))
        return Weights(vector=vector, name=self.name, comm=self.comm)

    def squared_norm(self) -> AdjFloat:
        """The sum of the squared weights, for weight decay; recorded on the tape.

        Returns
        -------
        AdjFloat
            The same on every rank.

        Examples
        --------
        >>> J = femnn.assemble((u - u_obs) ** 2 * dx) + 1e-6 * kappa.weights.squared_norm()
        """
        value = AdjFloat(self._ad_dot(self))
        if annotate_tape():
            block = SquaredNormBlock(self)
            get_working_tape().add_block(block)
            block.add_output(value.create_block_variable())
        return value

    def check_ranks(self, comm: MPI.Comm) -> None:
        """Raise an error on all ranks if they hold different values.  Collective.

        Parameters
        ----------
        comm
            The ranks that are compared.

        Raises
        ------
        RuntimeError
            If they differ.
        """
        if comm.size > 1 and not same_on_ranks(comm, self.vector.tobytes()):
            raise RuntimeError(
                f"the {len(self)} weights of {self.name} differ between ranks: all ranks must hold "
                "the same. Give every rank the same seed (torch.manual_seed(0) before torch's own "
                "modules are made), and assign to the weights or load a file on every rank."
            )

    def check(self, vector: np.ndarray) -> None:
        """Raise an error where the network cannot take a vector as its weights.

        Parameters
        ----------
        vector
            Shape ``(n_weights,)``.

        Raises
        ------
        ValueError
            If it has another shape or is not finite.
        """
        self._check_shape(vector)
        bad = int(np.count_nonzero(~np.isfinite(vector)))
        if bad:
            raise ValueError(
                f"{bad} of the {len(vector)} weights of {self.name} are NaN or infinite: wanted "
                "finite numbers. Build the network anew, or load weights saved before they "
                "became so; a smaller learning rate often prevents it."
            )

    def _check_shape(self, vector: np.ndarray) -> None:
        if vector.shape != (len(self),):
            raise ValueError(
                f"got a weight vector of shape {vector.shape}, wanted ({len(self)},): one entry "
                "for each trainable weight."
            )

    def __len__(self) -> int:
        return len(self._vector if self._parameters is None else self._parameters)

    def __repr__(self) -> str:
        return f"Weights({self.name}, {len(self)} values)"

    def _is_on_tape(self) -> bool:
        return self._parameters is not None or self._block_variable() is not None

    # A checkpoint is an object of its own: the tape's values do not change with what users hold.

    @property
    def has_changed(self) -> bool:
        """Whether the network has other weights than when the tape took them last."""
        known = None if self._parameters is None else self._recorded
        return known is not None and not np.array_equal(known, self.vector, equal_nan=True)

    def _ad_will_add_as_dependency(self) -> None:
        check_schedule()
        follow(self)
        self.block_variable.save_output(overwrite=False)

    @classmethod
    def _ad_init_object(cls, obj: Weights) -> Weights:
        return cls(vector=obj.vector, name=obj.name, comm=obj.comm)

    def _ad_create_checkpoint(self) -> Weights:
        if self._parameters is None:
            return self._same_value()
        self._recorded = self._parameters.read()
        return self.like(self._recorded)

    def _ad_restore_at_checkpoint(self, checkpoint: Weights) -> Weights:
        return checkpoint._same_value()

    def _same_value(self) -> Weights:
        """Another object with the same (read-only) array, for a value without a network."""
        value = Weights(vector=np.empty(0), name=self.name, comm=self.comm)
        value._vector = self._vector
        return value


def _read_only(vector: np.ndarray) -> np.ndarray:
    vector.flags.writeable = False
    return vector
