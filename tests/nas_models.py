"""Small networks of three families whose sizes can be searched."""

import keras
from keras import layers

from fliqs_keras import SearchSpace, nas

FORMATS = ["INT4", "INT8", "E2M1", "BF16"]


def residual_net():
    """Sums with projected shortcuts, a concatenation and a flattened end."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(12, 3, padding="same", name="stem")(inputs)
    x = layers.ReLU(name="stem_relu")(x)
    shortcut = layers.Conv2D(16, 1, strides=2, name="project")(x)
    y = layers.Conv2D(
        16, 5, strides=2, padding="same", use_bias=False, name="conv_1"
    )(x)
    y = layers.BatchNormalization(name="norm_1")(y)
    y = layers.ReLU(name="relu_1")(y)
    y = layers.Conv2D(16, 3, padding="same", name="conv_2")(y)
    x = layers.Add(name="add_1")([shortcut, y])
    y = layers.Conv2D(24, 3, padding="same", name="conv_3")(x)
    y = layers.PReLU(shared_axes=[1, 2], name="prelu")(y)
    y = layers.Conv2D(16, 1, name="conv_4")(y)
    x = layers.Add(name="add_2")([y, x])
    y = layers.Conv2DTranspose(8, 3, padding="same", name="up")(x)
    x = layers.Concatenate(name="both")([x, y])
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(20, activation="relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(5, name="head")(x))


def residual_space():
    return SearchSpace(
        FORMATS,
        architecture=[
            nas.Width(["stem", "conv_1", "conv_3"], [0.25, 0.5, 1.0]),
            nas.Width("conv_2", [6, 10, 16]),
            nas.Width(["up", "hidden"], [0.5, 1.0], divisor=4),
            nas.KernelSize("conv_[123]", [3]),
            nas.KernelSize("stem", [1, 3]),
            nas.Skip("add_2"),
        ],
    )


def inverted_residual_net():
    """Depthwise blocks with squeeze and excitation, as of MobileNet."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, strides=2, padding="same", name="stem")(inputs)
    for number in (1, 2):
        name = f"block_{number}"
        y = layers.Conv2D(32, 1, use_bias=False, name=f"{name}_expand")(x)
        y = layers.BatchNormalization(name=f"{name}_expand_norm")(y)
        y = layers.ReLU(6.0, name=f"{name}_expand_relu")(y)
        y = layers.DepthwiseConv2D(5, padding="same", name=f"{name}_depth")(y)
        y = layers.Activation("silu", name=f"{name}_depth_silu")(y)
        s = layers.GlobalAveragePooling2D(name=f"{name}_squeeze")(y)
        s = layers.Reshape((1, 1, 32), name=f"{name}_reshape")(s)
        s = layers.Conv2D(8, 1, activation="relu", name=f"{name}_reduce")(s)
        s = layers.Conv2D(32, 1, activation="sigmoid", name=f"{name}_gate")(s)
        y = layers.Multiply(name=f"{name}_excite")([y, s])
        y = layers.Conv2D(16, 1, use_bias=False, name=f"{name}_project")(y)
        y = layers.BatchNormalization(name=f"{name}_project_norm")(y)
        x = layers.Add(name=f"{name}_add")([x, y])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(5, name="head")(x))


def inverted_residual_space():
    return SearchSpace(
        FORMATS,
        architecture=[
            nas.Width("*_expand", [0.25, 0.5, 1.0], divisor=8),
            nas.Width(["stem", "*_project"], [0.5, 0.75, 1.0], divisor=4),
            nas.Width("*_reduce", [2, 8]),
            nas.KernelSize("*_depth", [3, 5]),
            nas.Skip("*_add"),
        ],
    )


def transformer():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 4, strides=4, name="patches")(inputs)
    x = layers.Reshape((4, 16), name="tokens")(x)
    for number in (1, 2):
        name = f"block_{number}"
        y = layers.LayerNormalization(name=f"{name}_norm_1")(x)
        y = layers.MultiHeadAttention(4, 4, name=f"{name}_attention")(y, y)
        x = layers.Add(name=f"{name}_add_1")([x, y])
        y = layers.LayerNormalization(name=f"{name}_norm_2")(x)
        y = layers.Dense(32, activation="gelu", name=f"{name}_expand")(y)
        y = layers.Dense(16, name=f"{name}_contract")(y)
        x = layers.Add(name=f"{name}_add_2")([x, y])
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(5, name="head")(x))


def transformer_space():
    return SearchSpace(
        FORMATS,
        architecture=[
            nas.Heads("*attention", [1, 2, 4]),
            nas.Width("*_expand", [0.25, 0.5, 1.0]),
            nas.Skip("*_add_?"),
        ],
    )


FAMILIES = {
    "residual": (residual_net, residual_space),
    "inverted_residual": (inverted_residual_net, inverted_residual_space),
    "transformer": (transformer, transformer_space),
}
