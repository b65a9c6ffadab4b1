"""Exports random samples of a target's space, and looks for fallbacks.

    python -m recipes.check_target --target=litert-cpu --samples=200

The samples are spread over the networks. A weight that is stored otherwise
than the target says, or that stays in float, is printed.
"""

import pathlib
import tempfile

import keras
import numpy as np
from absl import flags

import fliqs_keras
from recipes import command_line, models

NETWORKS = ("conv_net", "narrow_resnet", "separable_net")

_TARGET = flags.DEFINE_string("target", "litert-cpu", "Name of the target.")
_SAMPLES = flags.DEFINE_integer("samples", 200, "Samples in all.", 1)
_SIZE = 16


def check(
    target: str | fliqs_keras.Target,
    network: str,
    samples: int,
    folder: pathlib.Path,
) -> list[str]:
    """Returns what is stored otherwise than the target says.

    Args:
        target: The target, or its name.
        network: Name of a network of `recipes.models`.
        samples: Number of random samples of its space.
        folder: Folder for the files.
    """
    if isinstance(target, str):
        target = fliqs_keras.Target.named(target)
    keras.utils.set_random_seed(0)
    model = models.build(network, (_SIZE, _SIZE, 1), 10)
    space = fliqs_keras.SearchSpace.for_target(target, model)
    classes = {
        path: type(model.get_layer(path)).__name__ for path in space.formats
    }
    model = fliqs_keras.apply(model, space)
    generator = np.random.default_rng(0)
    images = generator.normal(size=(8, _SIZE, _SIZE, 1)).astype("float32")
    fliqs_keras.calibrate(model, images)
    found = []
    for number in range(samples):
        assignment = fliqs_keras.FormatAssignment(
            {
                path: formats[generator.integers(len(formats))]
                for path, formats in space.formats.items()
            }
        )
        assignment.apply_to(model)
        report = fliqs_keras.export_tflite(model, folder / f"{network}.tflite")
        said = {
            path: target.stored_as(classes[path], chosen)
            for path, chosen in assignment.items()
        }
        rows = {row.path: row for row in report.layers}
        found += [
            f"sample {number}: {path} is not in the file"
            for path in sorted(set(said) - set(rows))
        ]
        found += [
            f"sample {number}: {path} in {row.format} is {row.tensor_type}, "
            f"said to be {said[path]}. {row.reason}"
            for path, row in rows.items()
            if row.tensor_type != said[path] or row in report.left_in_float
        ]
    return found


def main(_):
    found = 0
    with tempfile.TemporaryDirectory() as folder:
        for number, network in enumerate(NETWORKS):
            # What does not divide goes to the first networks.
            samples = (_SAMPLES.value + len(NETWORKS) - 1 - number) // len(
                NETWORKS
            )
            lines = check(_TARGET.value, network, samples, pathlib.Path(folder))
            print("\n".join([*lines, f"{network}: {samples} samples"]))
            found += len(lines)
    print(f"{found} weights stored otherwise than said")


if __name__ == "__main__":
    command_line.run(main)
