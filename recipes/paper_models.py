"""Networks of the FLIQS paper, at the size of ImageNet."""

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
    x = _conv(round(64 * width), 7, 2, "stem")(inputs)
    x = layers.ReLU(name="stem_relu")(_norm("stem")(x))
    x = layers.MaxPooling2D(3, 2, padding="same", name="stem_pool")(x)
    for stage, filters in enumerate((64, 128, 256, 512), start=1):
        for block in (1, 2):
            strides = 2 if block == 1 and stage > 1 else 1
            name = f"stage{stage}_block{block}"
            x = _residual(x, round(filters * width), strides, block == 1, name)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(num_classes, name="head")(x)
    return keras.Model(inputs, outputs, name="resnet18")


def mobilenet_v2(
    width: float = 1.0,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    num_classes: int = 1000,
) -> keras.Model:
    """Builds MobileNetV2 of `keras.applications`, with random weights.

    Args:
        width: Factor of all filters (α).
        input_shape: Height, width and channels of the images.
        num_classes: Number of classes.

    Returns:
        A model that returns logits.
    """
    return keras.applications.MobileNetV2(
        input_shape=input_shape,
        alpha=width,
        weights=None,
        classes=num_classes,
        classifier_activation=None,
    )


def _residual(x, filters, strides, project, name):
    shortcut = x
    if project:
        projection = _conv(filters, 1, strides, f"{name}_projection")
        shortcut = _norm(f"{name}_projection")(projection(x))
    for number, step in enumerate((strides, 1), start=1):
        conv = f"{name}_conv{number}"
        x = _norm(conv)(_conv(filters, 3, step, conv)(x))
        if number == 1:
            x = layers.ReLU(name=f"{conv}_relu")(x)
    x = layers.Add(name=f"{name}_add")([shortcut, x])
    return layers.ReLU(name=f"{name}_relu")(x)


def _conv(filters, size, strides, name):
    return layers.Conv2D(
        filters, size, strides, padding="same", use_bias=False, name=name
    )


def _norm(name):
    return layers.BatchNormalization(name=f"{name}_norm")
