"""Sizes that can be switched: which part of a layer is alive."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

Tensor = Any

# What a mask says something about.
WEIGHT = "weight"
INPUT = "input"
OUTPUT = "output"
BRANCH = "branch"
CALL = "call"
SUBJECTS = (WEIGHT, INPUT, OUTPUT, BRANCH, CALL)


def mask_all(
    masks: Sequence["SizeMask"], subject: str, inputs: Tensor
) -> Tensor:
    """Sets to zero what is dead by the masks of a subject that act."""
    for mask in masks:
        if mask.subject == subject and mask.acts:
            inputs = mask(inputs)
    return inputs


@keras.saving.register_keras_serializable(package="fliqs_keras")
class SizeMask(keras.layers.Layer):
    """Says which positions along an axis are alive at the size in use.

    A position is alive if the size is larger than its rank: of channels with
    the ranks 0, 1, 2 and so on the first `size`, of a kernel with the ranks
    4, 2, 0, 2, 4 the `size` in the middle. A rank of -1 is always alive.

    Args:
        sizes: The sizes to choose from, rising.
        ranks: Rank of each position along the axes.
        subject: What has the axes. `"weight"`: the layer's weight, which is
            set to zero where it is dead. `"input"` or `"output"`: its first
            input or its output, of which dead channels are computed, are read
            by no one, and must not count in ranges. `"branch"`: an input of a
            sum, given by its position in `axes`, which is set to zero.
            `"call"`: the whole call of the layer, for what it costs.
        axes: The axes.
        acts: Whether a weight is set to zero. An axis of dead output channels
            need not be: no one reads them.
        decision: Name of the decision that chooses the size. Masks of one
            decision are switched together.
        name: Name of the layer.

    Raises:
        ValueError: If `sizes` do not rise, or if `subject` is unknown.

    Example:

    >>> mask = SizeMask([1, 3], [0, 1, 2], "weight", axes=[0], decision="width")
    >>> mask.build(())
    >>> mask.index.assign(0)
    >>> mask(ops.ones((3, 2)))[:, 0]
    <tf.Tensor: shape=(3,), dtype=float32, numpy=array([1., 0., 0.], ...
    """

    def __init__(
        self,
        sizes: Sequence[int],
        ranks: Sequence[int],
        subject: str,
        axes: Sequence[int],
        *,
        decision: str,
        acts: bool = True,
        name: str | None = None,
    ):
        super().__init__(
            name=name, dtype="float32", autocast=False, trainable=False
        )
        self.options = tuple(int(size) for size in sizes)
        if not self.options or list(sizes) != sorted(set(self.options)):
            raise ValueError(
                f"Expected sizes that rise. Received: sizes={sizes}"
            )
        if subject not in SUBJECTS:
            raise ValueError(
                f"Expected `subject` to be one of {SUBJECTS}. Received: "
                f"subject={subject!r}"
            )
        self.ranks = tuple(int(rank) for rank in ranks)
        self.subject = subject
        self.axes = tuple(axes)
        self.acts = acts
        self.decision = decision
        # Whether a position is alive, a row a size.
        self.table = np.less.outer(self.ranks, self.options).T

    def build(self, shape):
        """Creates the index of the size in use: at first the largest."""
        self.index = self.add_weight(
            name="index",
            shape=(),
            dtype="int32",
            initializer=keras.initializers.Constant(len(self.options) - 1),
            trainable=False,
            aggregation="only_first_replica",
        )

    def call(self, inputs):
        """Returns a tensor with zeros where it is dead."""
        alive = self.alive(inputs.dtype)
        if self.subject == BRANCH:
            return inputs * alive[0]
        for axis in self.axes:
            shape = [1] * len(inputs.shape)
            shape[axis] = len(self.ranks)
            inputs = inputs * ops.reshape(alive, shape)
        return inputs

    def alive(self, dtype: str) -> Tensor:
        """Returns one for each position that is alive, and zero for others."""
        sizes = ops.convert_to_tensor(np.array(self.options, "int32"))
        ranks = ops.convert_to_tensor(np.array(self.ranks, "int32"))
        # No slice, for which XLA would compile each size anew.
        taken = ops.arange(len(self.options)) == ops.convert_to_tensor(
            self.index
        )
        size = ops.sum(sizes * ops.cast(taken, "int32"))
        return ops.cast(ranks < size, dtype)

    def get_build_config(self):
        return None

    def get_config(self):
        return {
            "sizes": list(self.options),
            "ranks": list(self.ranks),
            "subject": self.subject,
            "axes": list(self.axes),
            "acts": self.acts,
            "decision": self.decision,
            "name": self.name,
        }


class Share(NamedTuple):
    """How much is alive, by the decisions that this depends on.

    Attributes:
        decisions: The names of the decisions.
        values: The share, with an axis for each decision, and along it an
            entry for each of its sizes.
    """

    decisions: tuple[str, ...]
    values: np.ndarray


def alive_share(masks: Sequence[SizeMask]) -> Share:
    """Returns which share of a weight is alive, all masks of it together.

    Masks of inputs, outputs and branches say nothing about that.

    What masks of the same axes leave dead adds up: each is of other
    positions, as of tensors that were concatenated. Axes, and whether the
    layer is called at all, multiply.
    """
    masks = [mask for mask in masks if mask.subject in (WEIGHT, CALL)]
    sizes = {mask.decision: len(mask.options) for mask in masks}
    axis_of = {decision: axis for axis, decision in enumerate(sizes)}
    dead: dict[int | str, Any] = {}
    for mask in masks:
        shape = [1] * len(sizes)
        shape[axis_of[mask.decision]] = len(mask.options)
        share = np.reshape(1.0 - mask.table.mean(axis=1), shape)
        # Several blocks around a call each decide about all of it.
        for axis in mask.axes if mask.subject == WEIGHT else [mask.decision]:
            dead[axis] = dead.get(axis, 0.0) + share
    values = np.ones(tuple(sizes.values()))
    for share in dead.values():
        values = values * (1.0 - share)
    return Share(tuple(sizes), values)
