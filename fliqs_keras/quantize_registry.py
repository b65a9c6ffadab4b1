"""How each class of layer is quantized: a table that users can add to."""

import math
import types
from collections.abc import Mapping

import keras

from fliqs_keras._tfmot import QuantizeConfig
from fliqs_keras.plain_quantize_configs import PlainQuantizeConfig
from fliqs_keras.quantize_configs import SwitchableQuantizeConfig

__all__ = ["register_quantize_config"]


@keras.saving.register_keras_serializable(package="fliqs_keras")
class TransposedConvQuantizeConfig(SwitchableQuantizeConfig):
    """Transposed convolutions, whose kernels end in (outputs, inputs)."""

    def count_macs(self, layer, input_shape, output_shape):
        """Each weight is used once at each position of the input."""
        kernel = layer.kernel.shape
        return math.prod(kernel) * math.prod(input_shape[1:]) // kernel[-1]


@keras.saving.register_keras_serializable(package="fliqs_keras")
class SeparableConvQuantizeConfig(SwitchableQuantizeConfig):
    """Separable convolutions: two kernels, one input."""

    def count_macs(self, layer, input_shape, output_shape):
        """Both kernels are used once at each position of the output."""
        filters = layer.pointwise_kernel.shape[-1]
        positions = math.prod(output_shape[1:]) // filters
        kernels = (layer.depthwise_kernel, layer.pointwise_kernel)
        return positions * sum(math.prod(k.shape) for k in kernels)


@keras.saving.register_keras_serializable(package="fliqs_keras")
class EinsumDenseQuantizeConfig(SwitchableQuantizeConfig):
    """Einsum layers: the output channels are named by the equation."""

    def get_channel_axes(self, layer, name):
        """The axes of the kernel that the output keeps."""
        operands, output = layer.equation.replace(" ", "").split("->")
        kernel = operands.split(",")[1]
        return tuple(
            axis - len(kernel)
            for axis, letter in enumerate(kernel)
            if letter in output
        )

    def count_macs(self, layer, input_shape, output_shape):
        """Each element of the output adds up products over the other axes."""
        axes = self.get_channel_axes(layer, "kernel")
        shape = layer.kernel.shape
        others = [n for i, n in enumerate(shape) if i - len(shape) not in axes]
        return math.prod(output_shape[1:]) * math.prod(others)


@keras.saving.register_keras_serializable(package="fliqs_keras")
class EmbeddingQuantizeConfig(SwitchableQuantizeConfig):
    """Embeddings: a table with a scale a column, and indices for input."""

    def count_macs(self, layer, input_shape, output_shape):
        """A look-up multiplies nothing, the way back as a dense layer does.

        That is what `keras.layers.ReversibleEmbedding` does in reverse.
        """
        is_lookup = len(output_shape) > len(input_shape)
        if is_lookup:
            return 0
        return math.prod(output_shape[1:]) * input_shape[-1]


@keras.saving.register_keras_serializable(package="fliqs_keras")
class RecurrentQuantizeConfig(SwitchableQuantizeConfig):
    """Recurrent layers: the input and both kernels, but not the state."""

    def count_macs(self, layer, input_shape, output_shape):
        """Each weight is used once at each step."""
        kernels = (layer.cell.kernel, layer.cell.recurrent_kernel)
        return input_shape[1] * sum(math.prod(k.shape) for k in kernels)


_KERNEL = SwitchableQuantizeConfig()
# A depthwise kernel ends in (input channels, multiplier): one output channel
# for each pair.
_DEPTHWISE = SwitchableQuantizeConfig(channel_axes=(-2, -1))
_TRANSPOSED = TransposedConvQuantizeConfig(channel_axes=(-2,))
_SEPARABLE = SeparableConvQuantizeConfig(
    ["depthwise_kernel", "pointwise_kernel"],
    {"depthwise_kernel": (-2, -1), "pointwise_kernel": (-1,)},
)
_EMBEDDING = EmbeddingQuantizeConfig(["embeddings"], quantize_input=False)
_RECURRENT = RecurrentQuantizeConfig(["cell.kernel", "cell.recurrent_kernel"])

_CONFIGS: dict[type, SwitchableQuantizeConfig] = {
    keras.layers.Dense: _KERNEL,
    keras.layers.EinsumDense: EinsumDenseQuantizeConfig(),
    keras.layers.Embedding: _EMBEDDING,
    keras.layers.Conv1D: _KERNEL,
    keras.layers.Conv2D: _KERNEL,
    keras.layers.Conv3D: _KERNEL,
    keras.layers.Conv1DTranspose: _TRANSPOSED,
    keras.layers.Conv2DTranspose: _TRANSPOSED,
    keras.layers.Conv3DTranspose: _TRANSPOSED,
    keras.layers.DepthwiseConv1D: _DEPTHWISE,
    keras.layers.DepthwiseConv2D: _DEPTHWISE,
    keras.layers.SeparableConv1D: _SEPARABLE,
    keras.layers.SeparableConv2D: _SEPARABLE,
    keras.layers.SimpleRNN: _RECURRENT,
    keras.layers.LSTM: _RECURRENT,
    keras.layers.GRU: _RECURRENT,
}


def register_quantize_config(layer_class: type, config: QuantizeConfig) -> None:
    """Says how layers of a class, and of classes derived from it, quantize.

    It holds for every later call of `fliqs_keras.apply`; models that are
    quantized already stay as they are.

    Args:
        layer_class: A class of `keras.layers.Layer`.
        config: A `SwitchableQuantizeConfig`, or any tfmot `QuantizeConfig`
            whose quantizers are `SwitchableQuantizer`s.

    Raises:
        ValueError: If `layer_class` is no layer class, or `config` no
            quantize config.

    Example:

    >>> @keras.saving.register_keras_serializable()
    ... class Mix(keras.layers.Layer):
    ...     def build(self, input_shape):
    ...         self.mixer = self.add_weight(shape=(input_shape[-1], 8))
    ...     def call(self, x):
    ...         return keras.ops.matmul(x, self.mixer)
    >>> fliqs_keras.register_quantize_config(
    ...     Mix, fliqs_keras.SwitchableQuantizeConfig(["mixer"])
    ... )
    """
    is_layer_class = isinstance(layer_class, type) and issubclass(
        layer_class, keras.layers.Layer
    )
    if not is_layer_class:
        raise ValueError(
            "Expected a class derived from `keras.layers.Layer`. Received: "
            f"{layer_class!r}"
        )
    _CONFIGS[layer_class] = as_switchable(config)


def as_switchable(config: QuantizeConfig) -> SwitchableQuantizeConfig:
    """Returns a config that serves as a `SwitchableQuantizeConfig`.

    Raises:
        ValueError: If it is no tfmot `QuantizeConfig` at all.
    """
    if isinstance(config, SwitchableQuantizeConfig):
        return config
    if not isinstance(config, QuantizeConfig):
        raise ValueError(
            "Expected a `fliqs_keras.SwitchableQuantizeConfig` or another "
            f"tfmot `QuantizeConfig`. Received: {config!r}"
        )
    return PlainQuantizeConfig(config)


NO_CONFIGS: Mapping = types.MappingProxyType({})


def find_quantize_config(
    layer: keras.layers.Layer,
    own: Mapping[str | type, SwitchableQuantizeConfig] = NO_CONFIGS,
    path: str | None = None,
) -> SwitchableQuantizeConfig | None:
    """Returns the config of a layer, if any.

    Args:
        layer: The layer.
        own: Configs that go before those of the table, by path, name or
            class of a layer.
        path: Path of the layer in its model.

    Returns:
        The config of its path, of its name, or of its class or nearest base,
        in this order.
    """
    for key in (path, layer.name):
        if key in own:
            return own[key]
    for table in (own, _CONFIGS):
        for base in type(layer).__mro__:
            if base in table:
                return table[base]
    return None
