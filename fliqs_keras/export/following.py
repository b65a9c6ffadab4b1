"""Compares a file with its Keras model one quantizer after the other.

A network of quantizers turns the last bit of a sum into a whole step where a
value is near a tie between two codes, and all that follows differs: of one
network, summed up in two orders, the outputs may have little in common. So
Keras takes what the file has at each quantizer, and goes on from there. Each
part between quantizers is then compared on inputs that are the same.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from fliqs_keras.export.batches import fill_up
from fliqs_keras.quantized_layers import CallHook, use_hook
from fliqs_keras.quantizers import SwitchableQuantizer

__all__ = ["ObservedFile", "follow"]

# How many examples are run.
EXAMPLES = 8
# A part of the range below which two tensors are one. A code of INT16 is more.
_SAME = 1e-6
# What a root mean square counts for, beside a mean: integer kernels change
# single codes, which it weighs most.
_RMS_SHARE = 1 / 3

Arrays = Mapping[str, np.ndarray]


class ObservedFile(NamedTuple):
    """A file that shows what it computes on the way, by a copy of it.

    The copy is another file: a runtime that computes the one wrongly, because
    it puts two tensors in one place, may compute the other right.

    Attributes:
        batch_size: Examples in one call.
        run: Runs the file as it is, on inputs by name; returns its outputs by
            name.
        observe: Runs the copy; returns tensors in the order of the ops, codes
            being dequantized.
    """

    batch_size: int
    run: Callable[[Arrays], Arrays]
    observe: Callable[[Arrays], Sequence[np.ndarray]]


def follow(
    file: ObservedFile,
    run_keras: Callable[[Any], Arrays],
    inputs: Any,
    names: Sequence[str],
) -> tuple[Arrays, Arrays, dict[str, float]]:
    """Runs a model on what a file has at each quantizer.

    Args:
        file: The file.
        run_keras: Runs the model on a batch; returns its outputs by name.
        inputs: Examples as the model takes them, of which a few are run, the
            first `EXAMPLES`.
        names: Names of the inputs in the file, in the order of `inputs`.

    Returns:
        The outputs of the file; those of the model; and for each quantizer,
        by its path, how far the values of the file are from being a rounding
        of what Keras rounds, as a part of the largest: the mean, or a third of
        the root mean square, which one channel that is wrong among many makes
        larger. Zero, if values differ in ties alone; infinite, if the file has
        none.
    """
    size = file.batch_size
    count = min(len(keras.tree.flatten(inputs)[0]), EXAMPLES)
    excess: dict[str, list[tuple[float, float]]] = {}
    pairs = []
    for start in range(0, count, size):
        batch = keras.tree.map_structure(
            lambda x, start=start: fill_up(x[start : start + size], size),
            inputs,
        )
        fed = dict(zip(names, keras.tree.flatten(batch), strict=True))
        with use_hook(_Following(file.observe(fed), excess)):
            pairs.append((file.run(fed), run_keras(batch)))
    actual, expected = (_join(side) for side in zip(*pairs, strict=True))
    found = {}
    for path, moments in excess.items():
        mean, square = np.mean(moments, axis=0)
        found[path] = float(max(mean, _RMS_SHARE * np.sqrt(square)))
    return actual, expected, found


def _join(batches: Sequence[Arrays]) -> Arrays:
    return {
        name: np.concatenate([batch[name] for batch in batches])
        for name in batches[0]
    }


class _Following(CallHook):
    """Continues on the values of a file.

    Args:
        tensors: What the file computed, in its order.
        excess: Takes what is found at each quantizer: mean and mean square.
    """

    def __init__(
        self,
        tensors: Sequence[np.ndarray],
        excess: dict[str, list[tuple[float, float]]],
    ):
        self._excess = excess
        self._tensors: dict[int, list[np.ndarray]] = {}
        for tensor in tensors:
            self._tensors.setdefault(tensor.size, []).append(tensor)

    def input(self, layer, quantizer, inputs):
        return self._follow(quantizer, inputs)

    def output(self, layer, quantizer, outputs):
        return self._follow(quantizer, outputs)

    def _follow(self, quantizer: SwitchableQuantizer, x: tf.Tensor):
        rounded = quantizer(x)
        number_format = quantizer.format
        if number_format is None or number_format.is_pass_through:
            return rounded
        if not tf.executing_eagerly():
            # Within a loop, whose body Keras traces.
            return rounded
        x, rounded = np.asarray(x, "f8"), np.asarray(rounded)
        excess = self._excess.setdefault(quantizer.path, [])
        found = self._find(rounded)
        if found is None:
            excess.append((np.inf, np.inf))
            return tf.convert_to_tensor(rounded)
        result = tf.convert_to_tensor(found)
        # A value that is nearer than those of the grid is not on it.
        beside = np.abs(found - np.asarray(quantizer(result)))
        further = np.abs(found - x) - np.abs(rounded - x)
        part = (beside + np.maximum(further, 0)) / (np.abs(rounded).max() or 1)
        excess.append((np.mean(part), np.mean(part**2)))
        return result

    def _find(self, values: np.ndarray) -> np.ndarray | None:
        """Returns the tensor of the file that is nearest to given values.

        Tensors of a file do not name layers. Where there is none that is
        right, a wrong one is found, and differs.
        """
        known = self._tensors.get(values.size, [])
        limit = _SAME * np.ptp(values)
        best, distance = None, np.inf
        for number, tensor in enumerate(known):
            for candidate in _in_layouts(tensor, values.shape):
                mean = np.abs(candidate - values).mean(dtype="f8")
                if mean < distance:
                    best, position, distance = candidate, number, mean
            if distance <= limit:
                break
        if best is not None:
            # The next one is behind it, most likely.
            known[:] = known[position:] + known[:position]
        return best


def _in_layouts(tensor: np.ndarray, shape: tuple[int, ...]):
    """Yields a tensor in the shape of another, the channels also moved."""
    yield tensor.reshape(shape)
    if tensor.ndim == len(shape) > 2:
        last = np.moveaxis(tensor, 1, -1)
        if last.shape == shape:
            yield last
