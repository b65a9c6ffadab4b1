"""Every kind of layer in every kind of model, through `apply`."""

import sys

import keras
import numpy as np
import pytest
from keras import layers

from tests.testing import run_layer_test

VOCABULARY = 7


@keras.saving.register_keras_serializable(package="fliqs_keras_tests")
class Block(layers.Layer):
    """A custom layer that holds others, also in a list."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.attention = layers.MultiHeadAttention(2, 3)
        self.dense = [layers.Dense(units, "relu"), layers.Dense(units)]

    def build(self, input_shape):
        self.attention.build(input_shape, input_shape)
        self.dense[0].build(input_shape)
        self.dense[1].build((*input_shape[:-1], self.units))

    def call(self, x):
        x = self.attention(x, x)
        return self.dense[1](self.dense[0](x))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


SEQUENCE = (5, 4)
LAYERS = {
    "dense": (lambda: layers.Dense(6), (8,)),
    "dense_3d": (lambda: layers.Dense(6), SEQUENCE),
    "einsum": (
        lambda: layers.EinsumDense(
            "abc,cde->abde", (None, 2, 3), bias_axes="de"
        ),
        SEQUENCE,
    ),
    "einsum_ellipsis": (
        lambda: layers.EinsumDense("...x,yx->...y", (6,)),
        SEQUENCE,
    ),
    "embedding": (lambda: layers.Embedding(VOCABULARY, 4), "indices"),
    "conv1d": (lambda: layers.Conv1D(3, 3, padding="causal"), (8, 4)),
    "conv2d": (lambda: layers.Conv2D(4, 3, groups=2), (6, 6, 4)),
    "conv3d": (lambda: layers.Conv3D(3, 2), (4, 4, 4, 2)),
    "conv1d_transpose": (lambda: layers.Conv1DTranspose(3, 3), (6, 4)),
    "conv2d_transpose": (
        lambda: layers.Conv2DTranspose(3, 3, strides=2),
        (5, 5, 4),
    ),
    "conv3d_transpose": (lambda: layers.Conv3DTranspose(3, 2), (3, 3, 3, 2)),
    "depthwise_conv1d": (lambda: layers.DepthwiseConv1D(3), (8, 4)),
    "depthwise_conv2d": (
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
        (6, 6, 4),
    ),
    "separable_conv1d": (lambda: layers.SeparableConv1D(3, 3), (8, 4)),
    "separable_conv2d": (lambda: layers.SeparableConv2D(3, 3), (6, 6, 4)),
    "simple_rnn": (lambda: layers.SimpleRNN(3), SEQUENCE),
    "lstm": (lambda: layers.LSTM(3, return_sequences=True), SEQUENCE),
    "gru": (lambda: layers.GRU(3, return_state=True), SEQUENCE),
    "attention": (lambda: layers.MultiHeadAttention(2, 3), SEQUENCE, 2),
    "grouped_attention": (
        lambda: layers.GroupQueryAttention(3, 4, 2),
        SEQUENCE,
        2,
    ),
    "bidirectional": (lambda: layers.Bidirectional(layers.LSTM(3)), SEQUENCE),
    "time_distributed": (
        lambda: layers.TimeDistributed(layers.Dense(6)),
        SEQUENCE,
    ),
    "custom_block": (lambda: Block(6), SEQUENCE),
}


def make_input(shape, batch=8):
    generator = np.random.default_rng(0)
    if shape == "indices":
        return generator.integers(0, VOCABULARY, (batch, 5)).astype("int32")
    return generator.normal(size=(batch, *shape)).astype("float32")


@pytest.mark.parametrize("kind", ["functional", "nested", "subclassed"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, kind, tmp_path):
    keras.utils.set_random_seed(0)
    make_layer, shape, *calls = LAYERS[name]
    run_layer_test(kind, make_layer(), make_input(shape), tmp_path, *calls)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
