"""Networks that are timed, in float."""

import keras
from keras import layers

from recipes.mobile_networks import SMALL_MOBILE_NET

# Its sizes can be searched, too.
SIZED = "mobile_sizes"
NETWORKS = ("chain", "residual", "mobilenet_v2", "resnet50", SIZED)

_APPLICATIONS = {
    "mobilenet_v2": (keras.applications.MobileNetV2, 96),
    "resnet50": (keras.applications.ResNet50, 64),
}


def build(
    name: str,
    depth: int = 6,
    input_shape: tuple[int, int, int] | None = None,
) -> keras.Model:
    """Builds a classifier of 10 classes that returns logits.

    Args:
        name: `"chain"`: convolutions of 32 filters on 32x32 images.
            `"residual"`: three stages of residual blocks of 16 to 64 filters
            on 32x32 images, a ResNet-20. `"mobilenet_v2"`: MobileNetV2 on
            96x96 images. `"resnet50"`: ResNet50 on 64x64 images.
            `"mobile_sizes"`: the largest network of `recipes.nas_study` on
            28x28 images.
        depth: Number of convolutions of the chain.
        input_shape: Height, width and channels of other images.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in NETWORKS:
        raise ValueError(f"Expected one of {NETWORKS}. Received: {name!r}")
    if name in _APPLICATIONS:
        build_application, size = _APPLICATIONS[name]
        return build_application(
            input_shape=input_shape or (size, size, 3),
            weights=None,
            classes=10,
            classifier_activation=None,
        )
    if name == SIZED:
        return SMALL_MOBILE_NET.build_largest(input_shape or (28, 28, 1), 10)
    x = image = keras.Input(input_shape or (32, 32, 3))
    if name == "chain":
        for _ in range(depth):
            x = _conv(32, 1)(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
    else:
        x = layers.ReLU()(layers.BatchNormalization()(_conv(16, 1)(x)))
        for filters, strides in ((16, 1), (32, 2), (64, 2)):
            for number in range(3):
                x = _block(x, filters, strides if number == 0 else 1)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10)(x), name=name)


def _conv(filters: int, strides: int, size: int = 3) -> layers.Conv2D:
    return layers.Conv2D(
        filters, size, strides=strides, padding="same", use_bias=False
    )


def _block(x, filters: int, strides: int):
    y = layers.ReLU()(layers.BatchNormalization()(_conv(filters, strides)(x)))
    y = layers.BatchNormalization()(_conv(filters, 1)(y))
    if strides > 1:
        x = layers.BatchNormalization()(_conv(filters, strides, 1)(x))
    return layers.ReLU()(layers.Add()([x, y]))
