"""The chain of convolutions, in float and as each peer quantizes it.

Runs in the environments of the peers, where our package is not installed.
"""

from collections.abc import Callable
from typing import Any

Tensor = Any


def build(peer: str, depth: int, quantized: bool) -> Any:
    """Builds the chain of `benchmarks.networks`, as a peer trains it.

    Args:
        peer: One of `PEERS` but ours.
        depth: Number of convolutions.
        quantized: Whether it is quantized or in float.
    """
    if not quantized:
        return _chain(_library(peer), depth)
    return _QUANTIZED[peer](depth)


def _library(peer: str) -> Any:
    if peer == "tfmot":
        # Keras 2, by TF_USE_LEGACY_KERAS.
        import tensorflow as tf

        return tf.keras
    import keras

    return keras


def _chain(
    library: Any,
    depth: int,
    conv: Callable | None = None,
    relu: Callable | None = None,
    dense: Callable | None = None,
) -> Any:
    layers = library.layers
    conv = conv or layers.Conv2D
    x = image = library.Input((32, 32, 3))
    for _ in range(depth):
        x = conv(32, 3, padding="same", use_bias=False)(x)
        x = (relu or layers.ReLU)()(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(x)
    return library.Model(image, (dense or layers.Dense)(10)(x))


def _fake_quant(depth: int) -> Any:
    import keras
    from keras import ops

    def quantize(x: Tensor, largest: Tensor, axis: int | None = None) -> Tensor:
        return keras.quantizers.fake_quant_with_min_max_vars(
            x, -largest, largest, num_bits=8, narrow_range=True, axis=axis
        )

    def quantize_kernel(kernel: Tensor) -> Tensor:
        axes = tuple(range(len(kernel.shape) - 1))
        largest = ops.stop_gradient(ops.max(ops.abs(kernel), axis=axes))
        return quantize(kernel, largest, axis=-1)

    class Conv2D(keras.layers.Conv2D):
        def call(self, inputs):
            inputs = quantize(inputs, ops.convert_to_tensor(6.0))
            kernel = quantize_kernel(ops.convert_to_tensor(self.kernel))
            return ops.conv(inputs, kernel, padding=self.padding)

    class Dense(keras.layers.Dense):
        def call(self, inputs):
            inputs = quantize(inputs, ops.convert_to_tensor(6.0))
            kernel = quantize_kernel(ops.convert_to_tensor(self.kernel))
            return ops.matmul(inputs, kernel) + self.bias

    return _chain(keras, depth, conv=Conv2D, dense=Dense)


def _tfmot(depth: int) -> Any:
    import tensorflow_model_optimization as tfmot

    return tfmot.quantization.keras.quantize_model(
        _chain(_library("tfmot"), depth)
    )


def _hgq2(depth: int) -> Any:
    import keras
    from hgq.config import LayerConfigScope, QuantizerConfigScope
    from hgq.layers import QConv2D, QDense

    # As its documentation sets them.
    with (
        QuantizerConfigScope(
            place="all", default_q_type="kbi", overflow_mode="SAT_SYM"
        ),
        QuantizerConfigScope(
            place="datalane", default_q_type="kif", overflow_mode="WRAP"
        ),
        LayerConfigScope(enable_ebops=True, beta0=1e-6),
    ):
        return _chain(keras, depth, conv=QConv2D, dense=QDense)


def _qkeras(depth: int) -> Any:
    import keras
    import qkeras

    def conv(*args, **kwargs):
        quantizer = "quantized_bits(8,0,1)"
        return qkeras.QConv2D(*args, kernel_quantizer=quantizer, **kwargs)

    return _chain(
        keras,
        depth,
        conv=conv,
        relu=lambda: qkeras.QActivation("quantized_relu(8,3)"),
        dense=lambda units: qkeras.QDense(
            units,
            kernel_quantizer="quantized_bits(8,0,1)",
            bias_quantizer="quantized_bits(8,2,1)",
        ),
    )


_QUANTIZED = {
    "keras": _fake_quant,
    "tfmot": _tfmot,
    "hgq2": _hgq2,
    "qkeras": _qkeras,
}
