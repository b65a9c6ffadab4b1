"""Networks of MobileNetV2's blocks, fixed and to be searched."""

import dataclasses
from collections.abc import Sequence

import keras
from keras import layers

import fliqs_keras

# TuNAS's choices for MobileNetV2, as multiples of its channels and as ratios.
WIDTHS = (0.5, 0.625, 0.75, 1.0, 1.25, 1.5, 2.0)
EXPANSIONS = (3, 6)
KERNEL_SIZES = (3, 5, 7)


@dataclasses.dataclass(frozen=True)
class Stage:
    """Blocks of the same number of channels.

    Attributes:
        channels: The channels.
        blocks: How many blocks.
        strides: Strides of the first one.
        expansion: Largest ratio of the channels within a block to those that
            it reads.
    """

    channels: int
    blocks: int
    strides: int
    expansion: int = 6


@dataclasses.dataclass(frozen=True)
class MobileNetwork:
    """What a network of inverted residual blocks is made of.

    Attributes:
        stem: Channels of the first convolution, of strides 2.
        stages: The stages.
        last: Channels of the last 1x1 convolution; none if zero.
        divisor: All numbers of channels are multiples of it.
    """

    stem: int
    stages: Sequence[Stage]
    last: int
    divisor: int

    def build(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        width: float = 1.0,
        kernel_size: int = 3,
    ) -> keras.Model:
        """Builds a classifier that returns logits.

        Args:
            input_shape: Height, width and channels of the images.
            num_classes: Number of classes.
            width: Factor of all channels but the last.
            kernel_size: Kernel size of the depthwise convolutions.
        """
        inputs = keras.Input(input_shape, name="image")
        x = _convolve(self._scale(self.stem, width), 3, 2, "stem", inputs)
        for number, stage in enumerate(self.stages, start=1):
            channels = self._scale(stage.channels, width)
            for block in range(1, stage.blocks + 1):
                x = _block(
                    x,
                    channels,
                    stage.strides if block == 1 else 1,
                    stage.expansion,
                    kernel_size,
                    f"block_{number}_{block}",
                )
        if self.last:
            x = _convolve(self.last, 1, 1, "last", x)
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        outputs = layers.Dense(num_classes, name="head")(x)
        return keras.Model(inputs, outputs)

    def build_largest(
        self, input_shape: tuple[int, int, int], num_classes: int
    ) -> keras.Model:
        """Builds the network that `space` chooses within."""
        return self.build(
            input_shape, num_classes, max(WIDTHS), max(KERNEL_SIZES)
        )

    def space(
        self, formats: Sequence[str | fliqs_keras.Format]
    ) -> fliqs_keras.SearchSpace:
        """Returns the space of sizes and formats of the largest network.

        The channels within a block are shares of the largest number that it
        is built with, not multiples of the channels that it reads: ours, so
        that each decision has sizes of its own.

        Args:
            formats: The formats of all layers.
        """
        widths = [width / max(WIDTHS) for width in WIDTHS]
        expansions = [ratio / max(EXPANSIONS) for ratio in EXPANSIONS]
        nas = fliqs_keras.nas
        return fliqs_keras.SearchSpace(
            formats,
            architecture=[
                nas.Width(["stem", "*_project"], widths, self.divisor),
                nas.Width("*_expand", expansions, self.divisor),
                nas.KernelSize("*_depthwise", KERNEL_SIZES),
                nas.Skip("*_add"),
            ],
        )

    def _scale(self, channels: int, width: float) -> int:
        steps = round(channels * width / self.divisor)
        return max(1, steps) * self.divisor


# The stages of MobileNetV2.
MOBILE_NET_V2 = MobileNetwork(
    32,
    (
        Stage(16, 1, 1, expansion=1),
        Stage(24, 2, 2),
        Stage(32, 3, 2),
        Stage(64, 4, 2),
        Stage(96, 3, 1),
        Stage(160, 3, 2),
        Stage(320, 1, 1),
    ),
    last=1280,
    divisor=8,
)
# The same for images of 28 x 28 pixels, a thousandth of the multiplications.
SMALL_MOBILE_NET = MobileNetwork(
    8,
    (Stage(8, 1, 1, expansion=1), Stage(12, 2, 2), Stage(16, 2, 2)),
    last=0,
    divisor=4,
)


def _block(x, channels, strides, expansion, kernel_size, name):
    y = x
    if expansion > 1:
        y = _convolve(expansion * x.shape[-1], 1, 1, f"{name}_expand", y)
    y = layers.DepthwiseConv2D(
        kernel_size,
        strides,
        padding="same",
        use_bias=False,
        name=f"{name}_depthwise",
    )(y)
    y = layers.BatchNormalization(name=f"{name}_depthwise_norm")(y)
    y = layers.ReLU(6.0, name=f"{name}_depthwise_relu")(y)
    y = _convolve(channels, 1, 1, f"{name}_project", y, relu=False)
    if x.shape != y.shape:
        return y
    return layers.Add(name=f"{name}_add")([x, y])


def _convolve(channels, size, strides, name, x, relu=True):
    x = layers.Conv2D(
        channels, size, strides, padding="same", use_bias=False, name=name
    )(x)
    x = layers.BatchNormalization(name=f"{name}_norm")(x)
    return layers.ReLU(6.0, name=f"{name}_relu")(x) if relu else x
