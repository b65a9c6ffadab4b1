"""Small image classifiers for the recipes."""

import keras
from keras import layers

MODELS = ("conv_net", "depthwise_net")


def build(
    name: str, input_shape: tuple[int, int, int], num_classes: int
) -> keras.Model:
    """Builds a classifier that returns logits.

    Args:
        name: `"conv_net"`: three convolutions. `"depthwise_net"`: a
            convolution and two depthwise-separable blocks.
        input_shape: Height, width and channels of the images.
        num_classes: Number of classes.
    """
    if name not in MODELS:
        raise ValueError(f"Expected one of {MODELS}. Received: {name!r}")
    inputs = keras.Input(input_shape, name="image")
    x = _normalized(
        layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem"),
        inputs,
    )
    for number, (filters, strides) in enumerate([(32, 2), (64, 2)], start=1):
        if name == "conv_net":
            conv = layers.Conv2D(
                filters,
                3,
                strides=strides,
                padding="same",
                use_bias=False,
                name=f"conv_{number}",
            )
            x = _normalized(conv, x)
        else:
            depthwise = layers.DepthwiseConv2D(
                3,
                strides=strides,
                padding="same",
                use_bias=False,
                name=f"depthwise_{number}",
            )
            pointwise = layers.Conv2D(
                filters, 1, use_bias=False, name=f"pointwise_{number}"
            )
            x = _normalized(pointwise, _normalized(depthwise, x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(num_classes, name="head")(x)
    return keras.Model(inputs, outputs, name=name)


def _normalized(layer: keras.layers.Layer, x: keras.KerasTensor):
    x = layers.BatchNormalization(name=f"{layer.name}_norm")(layer(x))
    return layers.ReLU(name=f"{layer.name}_relu")(x)
