"""Small image classifiers for the recipes, and models by name or file."""

import pathlib

import keras
from keras import layers, ops

from recipes import paper_models

MODELS = (
    "conv_net",
    "depthwise_net",
    "narrow_resnet",
    "separable_net",
    "vision_transformer",
)


def build(
    name: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
    width: float = 1.0,
) -> keras.Model:
    """Builds a classifier that returns logits.

    The first two are for a first try. The last three are so narrow that they
    lose accuracy well before their formats are down to two bits: the
    networks of the study.

    Args:
        name: `"conv_net"`: three convolutions. `"depthwise_net"`: a
            convolution and two depthwise-separable blocks.
            `"narrow_resnet"`: three residual blocks of 16 to 24 filters.
            `"separable_net"`: four depthwise-separable blocks of 16 to 64
            filters. `"vision_transformer"`: two blocks of width 32 on 16
            patches.
        input_shape: Height, width and channels of the images.
        num_classes: Number of classes.
        width: Multiple of the numbers of filters, or of the width of the
            transformer.

    Raises:
        ValueError: If the name is unknown or the width is not positive.
    """
    if name not in MODELS:
        raise ValueError(f"Expected one of {MODELS}. Received: {name!r}")
    if not width > 0:
        raise ValueError(f"Expected a positive `width`. Received: {width!r}")
    inputs = keras.Input(input_shape, name="image")
    body = {
        "conv_net": _conv_body,
        "depthwise_net": _depthwise_body,
        "narrow_resnet": _resnet_body,
        "separable_net": _separable_body,
        "vision_transformer": _transformer_body,
    }[name]
    outputs = layers.Dense(num_classes, name="head")(body(inputs, width))
    return keras.Model(inputs, outputs, name=name)


def is_name(model: str) -> bool:
    """Returns whether a small network, or one of ImageNet, has the name."""
    return model in MODELS or paper_models.is_name(model)


def load(
    model: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
    pretrained: bool = False,
) -> keras.Model:
    """Builds a network by its name, or loads a float model from a file.

    Args:
        model: One of `MODELS`, the name of a network of `paper_models`, or
            the path of a `.keras` file.
        input_shape: Height, width and channels of the images.
        num_classes: Number of classes.
        pretrained: Whether to load weights for ImageNet.

    Raises:
        ValueError: If there is no such file, if its model takes or returns
            other shapes, or if there are no weights to load.
    """
    if paper_models.is_name(model):
        return paper_models.build(model, input_shape, num_classes, pretrained)
    if pretrained:
        raise ValueError(
            f"Expected one of {paper_models.NAMES}, of which some have weights "
            f"for ImageNet. Received: {model!r}, with --pretrained"
        )
    if model in MODELS:
        return build(model, input_shape, num_classes)
    if not pathlib.Path(model).is_file():
        raise ValueError(
            f"Expected one of {MODELS + paper_models.NAMES}, or the path of a "
            f".keras file. Received: {model!r}, which is not there"
        )
    loaded = keras.saving.load_model(model)
    shapes = loaded.input_shape[1:], loaded.output_shape[1:]
    if shapes != (tuple(input_shape), (num_classes,)):
        raise ValueError(
            f"Expected a model from images of shape {tuple(input_shape)} to "
            f"{num_classes} logits, as the data has them. Received: {model!r}, "
            f"from {shapes[0]} to {shapes[1]}"
        )
    return loaded


def _conv_body(x, width):
    x = _normalized(_conv(_scale(16, width), 3, 1, "stem"), x)
    for number, filters in enumerate([32, 64], start=1):
        filters = _scale(filters, width)
        x = _normalized(_conv(filters, 3, 2, f"conv_{number}"), x)
    return layers.GlobalAveragePooling2D(name="pool")(x)


def _depthwise_body(x, width):
    x = _normalized(_conv(_scale(16, width), 3, 1, "stem"), x)
    for number, filters in enumerate([32, 64], start=1):
        x = _separable(_scale(filters, width), 2, number, x)
    return layers.GlobalAveragePooling2D(name="pool")(x)


def _resnet_body(x, width):
    x = _normalized(_conv(_scale(8, width), 3, 2, "stem"), x)
    blocks = [(16, 2), (24, 2), (24, 1)]
    for number, (filters, strides) in enumerate(blocks, start=1):
        name = f"block_{number}"
        filters = _scale(filters, width)
        shortcut = x
        if strides > 1:
            shortcut = _normalized(
                _conv(filters, 1, strides, f"{name}_project"), x, relu=False
            )
        x = _normalized(_conv(filters, 3, strides, f"{name}_conv_1"), x)
        x = _normalized(_conv(filters, 3, 1, f"{name}_conv_2"), x, relu=False)
        x = layers.Add(name=f"{name}_add")([shortcut, x])
        x = layers.ReLU(name=f"{name}_relu")(x)
    return layers.GlobalAveragePooling2D(name="pool")(x)


def _separable_body(x, width):
    x = _normalized(_conv(_scale(8, width), 3, 2, "stem"), x)
    blocks = [(16, 2), (32, 1), (32, 2), (64, 1)]
    for number, (filters, strides) in enumerate(blocks, start=1):
        x = _separable(_scale(filters, width), strides, number, x)
    return layers.GlobalAveragePooling2D(name="pool")(x)


def _transformer_body(x, width, heads=2, depth=2):
    width = heads * _scale(32 // heads, width)
    patch = x.shape[1] // 4
    x = layers.Conv2D(width, patch, strides=patch, name="patches")(x)
    x = layers.Reshape((-1, width), name="tokens")(x)
    x = PositionEmbedding(name="positions")(x)
    for number in range(1, depth + 1):
        name = f"block_{number}"
        y = layers.LayerNormalization(name=f"{name}_attention_norm")(x)
        y = _attention(y, width, heads, name)
        x = layers.Add(name=f"{name}_attention_add")([x, y])
        y = layers.LayerNormalization(name=f"{name}_mlp_norm")(x)
        y = layers.Dense(2 * width, "gelu", name=f"{name}_expand")(y)
        y = layers.Dense(width, name=f"{name}_contract")(y)
        x = layers.Add(name=f"{name}_mlp_add")([x, y])
    x = layers.LayerNormalization(name="norm")(x)
    return layers.GlobalAveragePooling1D(name="pool")(x)


def _attention(x, width, heads, name):
    def project(part):
        y = layers.Dense(width, name=f"{name}_{part}")(x)
        shape = (-1, heads, width // heads)
        return layers.Reshape(shape, name=f"{name}_{part}_heads")(y)

    query, key, value = (project(p) for p in ("query", "key", "value"))
    scores = ops.einsum("bqhd,bkhd->bhqk", query, key)
    weights = ops.softmax(scores / (width // heads) ** 0.5, axis=-1)
    y = ops.einsum("bhqk,bkhd->bqhd", weights, value)
    y = layers.Reshape((-1, width), name=f"{name}_merge")(y)
    return layers.Dense(width, name=f"{name}_project")(y)


@keras.saving.register_keras_serializable(package="fliqs_keras_recipes")
class PositionEmbedding(layers.Layer):
    """Adds a learned vector to each position."""

    def build(self, input_shape):
        self.embedding = self.add_weight(
            name="embedding",
            shape=input_shape[1:],
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )

    def call(self, inputs):
        return inputs + self.embedding


def _scale(count, width):
    return max(1, round(count * width))


def _conv(filters, size, strides, name):
    return layers.Conv2D(
        filters,
        size,
        strides=strides,
        padding="same",
        use_bias=False,
        name=name,
    )


def _separable(filters, strides, number, x):
    depthwise = layers.DepthwiseConv2D(
        3,
        strides=strides,
        padding="same",
        use_bias=False,
        name=f"depthwise_{number}",
    )
    pointwise = _conv(filters, 1, 1, f"pointwise_{number}")
    return _normalized(pointwise, _normalized(depthwise, x))


def _normalized(layer, x, relu=True):
    x = layers.BatchNormalization(name=f"{layer.name}_norm")(layer(x))
    return layers.ReLU(name=f"{layer.name}_relu")(x) if relu else x
