"""Shows why clipping thresholds switch with the format.

    python -m recipes.clipping_study --dataset=fashion_mnist

A network is trained in float. Its weights are then quantized to each format
with the thresholds of least squared error for each other one: what keeping
one format's thresholds for another costs.
"""

from typing import NamedTuple

import keras
import numpy as np
from keras import layers

import fliqs_keras
from recipes import (
    command_line,
    data,
    dataset_flags,
    models,
    network_flags,
    training,
    training_flags,
)

FORMATS = ("INT2", "INT3", "INT4", "INT5", "INT6", "INT8")


class Clipping(NamedTuple):
    """What was found, a row a format.

    Attributes:
        thresholds: Mean best threshold, as a part of the largest magnitude of
            a channel.
        errors: Squared error of a format (row) with the thresholds of another
            one (column), as a multiple of that with its own.
    """

    thresholds: np.ndarray
    errors: np.ndarray


def measure(model: keras.Model) -> Clipping:
    """Measures the kernels of a float model.

    Args:
        model: The model.
    """
    errors = np.zeros((len(FORMATS), len(FORMATS)))
    shares = []
    for layer in model.layers:
        if not isinstance(layer, layers.Conv2D | layers.Dense):
            continue
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        quantizer = fliqs_keras.WeightQuantizer(FORMATS, [-1])
        quantizer.build(kernel.shape)
        quantizer.set_thresholds(kernel)
        best = keras.ops.convert_to_numpy(quantizer.shares)
        shares.append(best.reshape(len(FORMATS), -1))
        for row, name in enumerate(FORMATS):
            quantizer.set_format(name)
            for column in range(len(FORMATS)):
                switched = best.copy()
                switched[row] = best[column]
                quantizer.shares.assign(switched)
                rounded = keras.ops.convert_to_numpy(quantizer(kernel))
                errors[row, column] += np.sum((rounded - kernel) ** 2)
    return Clipping(
        np.concatenate(shares, axis=1).mean(axis=1),
        errors / np.diagonal(errors)[:, None],
    )


def render(clipping: Clipping) -> str:
    """Returns the table, in Markdown."""
    lines = [
        f"| format | best threshold | {' | '.join(FORMATS)} |",
        "|" + "---|" * (2 + len(FORMATS)),
    ]
    for name, share, row in zip(
        FORMATS, clipping.thresholds, clipping.errors, strict=True
    ):
        cells = " | ".join(f"{x:.2f}" for x in row)
        lines.append(f"| {name} | {share:.2f} | {cells} |")
    return "\n".join(lines)


def main(_):
    keras.utils.set_random_seed(0)
    dataset = data.in_memory(dataset_flags.settings())
    model = models.build(
        network_flags.NETWORK.value,
        dataset.image_shape,
        dataset.num_classes,
    )
    config = training_flags.settings() | {"verbose": 0}
    training.fit(model, dataset, config)
    print(render(measure(model)))


if __name__ == "__main__":
    command_line.run(main)
