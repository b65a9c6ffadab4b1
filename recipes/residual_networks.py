"""Residual networks of the size of ImageNet, with a factor of their width.

Their images are in [0, 1]; the first layer moves them to [-1, 1], of which
symmetric formats use both halves.
"""

from collections.abc import Callable

import keras
from keras import layers


def resnet18(
    width: float = 1.0,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    num_classes: int = 1000,
) -> keras.Model:
    """Builds ResNet-18, with a 1×1 projection in all four stages.

    Args:
        width: Factor of all filters.
        input_shape: Height, width and channels of the images.
        num_classes: Number of classes.

    Returns:
        A model that returns logits.
    """
    inputs = keras.Input(input_shape, name="image")
    x = _stages(inputs, width, (2, 2, 2, 2), _basic_block)
    outputs = layers.Dense(num_classes, name="head")(x)
    return keras.Model(inputs, outputs, name="resnet18")


def resnet50(
    width: float = 1.0,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    num_classes: int = 1000,
) -> keras.Model:
    """Builds ResNet-50, which strides in its 3×3 convolutions (v1.5).

    `keras.applications` strides in the 1×1 convolutions before them, which
    takes 3.86 in place of 4.09 billion multiplications. KerasHub has this
    network at width 1 only.

    Args:
        width: Factor of all filters.
        input_shape: Height, width and channels of the images.
        num_classes: Number of classes.

    Returns:
        A model that returns logits.
    """
    inputs = keras.Input(input_shape, name="image")
    x = _stages(inputs, width, (3, 4, 6, 3), _bottleneck_block)
    outputs = layers.Dense(num_classes, name="head")(x)
    return keras.Model(inputs, outputs, name="resnet50")


def _stages(
    inputs: keras.KerasTensor,
    width: float,
    blocks: tuple[int, ...],
    residual: Callable[..., keras.KerasTensor],
) -> keras.KerasTensor:
    """Returns the features of an image: a stem, four stages and a mean."""
    x = layers.Rescaling(2.0, -1.0, name="rescaling")(inputs)
    x = _normalized(x, round(64 * width), 7, 2, "stem")
    x = layers.MaxPooling2D(3, 2, padding="same", name="stem_pool")(x)
    for stage, count in enumerate(blocks, start=1):
        filters = round(64 * 2 ** (stage - 1) * width)
        for block in range(1, count + 1):
            name = f"stage{stage}_block{block}"
            strides = 2 if block == 1 and stage > 1 else 1
            y = residual(x, filters, strides, name)
            if block == 1:
                x = _normalized(
                    x, y.shape[-1], 1, strides, f"{name}_projection", relu=False
                )
            x = layers.Add(name=f"{name}_add")([x, y])
            x = layers.ReLU(name=f"{name}_relu")(x)
    return layers.GlobalAveragePooling2D(name="pool")(x)


def _basic_block(x, filters, strides, name):
    x = _normalized(x, filters, 3, strides, f"{name}_conv1")
    return _normalized(x, filters, 3, 1, f"{name}_conv2", relu=False)


def _bottleneck_block(x, filters, strides, name):
    x = _normalized(x, filters, 1, 1, f"{name}_conv1")
    x = _normalized(x, filters, 3, strides, f"{name}_conv2")
    return _normalized(x, 4 * filters, 1, 1, f"{name}_conv3", relu=False)


def _normalized(x, filters, size, strides, name, relu=True):
    x = layers.Conv2D(
        filters, size, strides, padding="same", use_bias=False, name=name
    )(x)
    x = layers.BatchNormalization(name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x
