"""Quantizers: one tensor, many formats, an index variable that selects."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from fliqs_keras import _keras, rounding, thresholds
from fliqs_keras._tfmot import Quantizer
from fliqs_keras.formats import Format, parse_format

__all__ = ["SwitchableQuantizer"]

Tensor = Any

OFF = -1

# Replicas must quantize alike: all take what the first one saw.
AGGREGATION = "only_first_replica"


def require_quantized_weights(path: str, store: Mapping) -> None:
    """Refuses to load from a file that knows no such part of a model.

    Args:
        path: Path of a layer or a quantizer.
        store: What a weights file holds for it.

    Raises:
        ValueError: If that is nothing.
    """
    if not len(store.keys()):
        raise ValueError(
            "Expected the weights of a quantized model. Received: a file "
            f"without {path!r} as `fliqs_keras.apply` made it. Load the "
            "weights of a float model into the float model, and call `apply` "
            "on that"
        )


def _everything(x: Tensor) -> Tensor:
    return x


@keras.saving.register_keras_serializable(package="fliqs_keras")
class SwitchableQuantizer(keras.layers.Layer, Quantizer):
    """Quantizes a tensor to one of several formats, chosen by a variable.

    The quantizer holds an integer `index`, the format in use, and in
    `thresholds` one clipping threshold for each format (switchable clipping,
    FLIQS), for each channel where `channel_axes` are given. Choosing another
    format is an assignment to `index`: nothing is traced or compiled anew,
    and neither the compute nor the memory grows with the number of formats.

    The thresholds are not trained. This class leaves them as they are set;
    those of the quantizers that `fliqs_keras.apply` makes follow the tensor.
    Values are computed in float32 and returned in the dtype of the input;
    gradients pass straight through except where the input is clipped.

    Args:
        formats: Formats or their names, at least one.
        channel_axes: Axes of the tensor along which thresholds differ.
            Defaults to none: one threshold a format for the whole tensor.
        decision: Name of the decision that chooses the format. Quantizers of
            one decision are switched together. Defaults to none.
        name: Name of the layer.

    Raises:
        ValueError: If `formats` is empty or holds a format twice, or if a
            name is unknown.

    Example:

    >>> quantizer = SwitchableQuantizer(["INT2", "INT4"])
    >>> quantizer.build((3,))
    >>> quantizer.thresholds.assign([1.0, 7.0])
    >>> quantizer.set_format("INT4")
    >>> quantizer(np.array([0.4, 2.6, 9.0]))
    <tf.Tensor: shape=(3,), dtype=float32, numpy=array([0., 3., 7.], ...
    """

    def __init__(
        self,
        formats: Sequence[str | Format],
        channel_axes: Sequence[int] = (),
        *,
        decision: str | None = None,
        name: str | None = None,
    ):
        super().__init__(
            name=name, dtype="float32", autocast=False, trainable=False
        )
        self.supports_masking = True
        if isinstance(formats, str) or not formats:
            raise ValueError(
                "Expected `formats` to be a sequence of at least one format. "
                f"Received: formats={formats!r}"
            )
        self.formats = tuple(parse_format(f) for f in formats)
        if len(set(self.formats)) < len(self.formats):
            raise ValueError(
                "Expected `formats` to hold each format once. Received: "
                f"formats={[f.name for f in self.formats]}"
            )
        self.channel_axes = tuple(channel_axes)
        self.decision = decision
        # Whether, while off, it was called as one that is not training.
        self.is_called_in_inference = False
        # What of the tensor counts in ranges: not channels that no one reads.
        self.alive_part = _everything

    def build(self, tensor_shape, name=None, layer=None):
        """Creates the index, and what the thresholds are made of.

        Args:
            tensor_shape: Shape of the tensor that will be quantized. Only
                its channel axes must be known.
            name: Unused; part of tfmot's interface.
            layer: Unused; part of tfmot's interface.
        """
        rank = len(tensor_shape)
        kept = {axis % rank for axis in self.channel_axes}
        shape = tuple(
            size if axis in kept else 1
            for axis, size in enumerate(tensor_shape)
        )
        # A tensor without channels has scalar thresholds, whatever its rank.
        self.channel_shape = shape if kept else ()
        self.index = self.add_weight(
            name="index",
            shape=(),
            dtype="int32",
            initializer=keras.initializers.Constant(self._widest()),
            trainable=False,
            aggregation=AGGREGATION,
        )
        self._add_thresholds()

    def _add_thresholds(self) -> None:
        self.thresholds = self.add_weight(
            name="thresholds",
            shape=(len(self.formats), *self.channel_shape),
            initializer=self._unset,
            trainable=False,
            aggregation=AGGREGATION,
        )

    def _widest(self) -> int:
        return int(np.argmax([f.bits for f in self.formats]))

    def _unset(self, shape, dtype=None):
        # Infinite until they are set: a wrong threshold must not pass for one.
        # Not NaN, which processes that compare their values find unequal.
        unset = [np.inf if f.scaled else f.max_code for f in self.formats]
        unset = np.reshape(unset, (-1,) + (1,) * len(self.channel_shape))
        return ops.convert_to_tensor(np.broadcast_to(unset, shape), "float32")

    def call(self, inputs, training=None, weights=None):
        x = ops.cast(inputs, "float32")
        # Thresholds are not trained, and gradients are not to flow through
        # what moves them.
        observed = ops.stop_gradient(x)
        if training:
            in_use = self.follow(observed)
        else:
            self._require_thresholds()
            in_use = self.thresholds_for(observed)
        index = ops.convert_to_tensor(self.index)
        y = rounding.round_to_chosen(x, self.formats, index, in_use)
        # Integers that are read as numbers do not stay integers.
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        is_float = keras.backend.is_float_dtype(dtype)
        return ops.cast(y, dtype if is_float else "float32")

    def thresholds_for(self, x: Tensor) -> Tensor:
        """Returns the thresholds that a tensor is quantized with.

        Args:
            x: The tensor, in float32.

        Returns:
            A threshold for each format, along the first axis.
        """
        return ops.convert_to_tensor(self.thresholds)

    def follow(self, x: Tensor) -> Tensor:
        """Keeps the thresholds up with the tensor; called while training.

        Args:
            x: The tensor that is about to be quantized, in float32.

        Returns:
            The thresholds that it is quantized with.
        """
        self._require_thresholds()
        return self.thresholds_for(x)

    @property
    def _threshold_variable(self) -> keras.Variable:
        """What is infinite until the thresholds are set."""
        return self.thresholds

    def _require_thresholds(self) -> None:
        """Refuses to quantize by thresholds that were never set.

        In a compiled function this runs while it is traced.
        """
        index = _keras.stored_value(self.index)
        if index is None:
            return
        if index < 0:
            self.is_called_in_inference = True
            return
        if not self._are_set(_keras.stored_value(self._threshold_variable)):
            raise ValueError(
                "Expected thresholds that are set before a tensor is "
                f"quantized. Received: quantizer {self.path!r}, which has "
                "seen no data. Train the model, or call "
                "`fliqs_keras.calibrate(model, data)`, first"
            )

    def _are_set(self, values: np.ndarray) -> bool:
        # A format that is not scaled needs none.
        is_scaled = np.array([f.scaled for f in self.formats])
        return not np.isinf(values[is_scaled]).any()

    def range_of(self, x: Tensor) -> Tensor:
        """Returns the largest magnitude of a tensor, or of each channel."""
        rank = len(x.shape)
        kept = {axis % rank for axis in self.channel_axes}
        axes = tuple(axis for axis in range(rank) if axis not in kept)
        return ops.max(ops.abs(x), axis=axes, keepdims=bool(kept))

    def set_thresholds(self, values: Tensor) -> None:
        """Sets the thresholds to those of least squared error on `values`.

        Args:
            values: Values that the tensor takes. Of the tensor's rank if the
                quantizer has channels, else of any shape.
        """
        values = ops.cast(values, "float32")
        self.keep_thresholds(values, self._least_error(values))

    def keep_thresholds(self, x: Tensor, wanted: Tensor) -> None:
        """Sets what makes a tensor be quantized with given thresholds.

        Args:
            x: The tensor.
            wanted: A threshold for each format, along the first axis. Those
                of formats that are not scaled stay as they are.
        """
        now = ops.convert_to_tensor(self.thresholds)
        self.thresholds.assign(thresholds.settle(wanted, now, self.formats))

    def _least_error(self, values: Tensor) -> Tensor:
        x = ops.convert_to_numpy(values)
        rank = x.ndim
        kept = sorted(axis % rank for axis in self.channel_axes)
        others = [axis for axis in range(rank) if axis not in kept]
        channels = int(np.prod(self.channel_shape))
        flat = x.transpose(others + kept).reshape(-1, channels)
        best = thresholds.least_error_thresholds(
            *thresholds.count_magnitudes(flat), self.formats
        )
        return ops.reshape(best, (len(self.formats), *self.channel_shape))

    @property
    def options(self) -> tuple[Format, ...]:
        """What its decision chooses from: the formats."""
        return self.formats

    @property
    def is_calibrated(self) -> bool:
        """Whether the thresholds have been set."""
        return self._are_set(ops.convert_to_numpy(self._threshold_variable))

    @property
    def format(self) -> Format | None:
        """The format in use, or `None` while the quantizer is off."""
        index = int(ops.convert_to_numpy(self.index))
        return None if index < 0 else self.formats[index]

    def set_format(self, number_format: str | Format | None) -> None:
        """Switches to a format, or off with `None`.

        Args:
            number_format: One of `formats`, its name, or `None`.

        Raises:
            ValueError: If the quantizer has no such format.
        """
        self.index.assign(
            OFF if number_format is None else self.index_of(number_format)
        )

    def index_of(self, number_format: str | Format) -> int:
        """Returns the position of a format in `formats`.

        Raises:
            ValueError: If the quantizer has no such format.
        """
        wanted = parse_format(number_format)
        if wanted not in self.formats:
            raise ValueError(
                f"Expected one of the formats of quantizer {self.name!r}: "
                f"{[f.name for f in self.formats]}. Received: {wanted.name}"
            )
        return self.formats.index(wanted)

    def scale(self, x: Tensor | None = None) -> np.ndarray:
        """Returns the scale of the format in use, float32, a channel.

        Args:
            x: The tensor that is quantized. Needed by a `WeightQuantizer`,
                whose thresholds depend on it.

        Raises:
            ValueError: If the quantizer is off.
        """
        number_format = self.format
        if number_format is None:
            raise ValueError(
                f"Expected quantizer {self.name!r} to stand on a format. "
                "Received: a quantizer that is off. Call `set_format` first."
            )
        thresholds = ops.convert_to_numpy(self.thresholds_for(x))
        threshold = thresholds[self.formats.index(number_format)]
        return threshold / np.float32(number_format.max_code)

    def load_own_variables(self, store):
        require_quantized_weights(self.path, store)
        super().load_own_variables(store)

    def get_build_config(self):
        return None

    def get_config(self):
        return {
            "formats": [f.name for f in self.formats],
            "channel_axes": list(self.channel_axes),
            "decision": self.decision,
            "name": self.name,
        }
