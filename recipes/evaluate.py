"""Evaluates the model of a run and its LiteRT file side by side.

python -m recipes.evaluate --workdir=runs/digits
"""

import functools
import pathlib

import keras
import numpy as np

import fliqs_keras
from recipes import (
    augmentation_flags,
    command_line,
    data,
    training,
    workdir_flags,
)


def run(workdir: pathlib.Path, dataset: data.AnyDataset) -> dict[str, float]:
    """Returns the accuracies on held-out data, and how often both agree.

    Args:
        workdir: Folder with `model.keras` and `model.tflite`.
        dataset: The data.

    Raises:
        ValueError: If a file is missing, or the data does not fit the model.
    """
    for name in ("model.keras", "model.tflite"):
        if not (workdir / name).is_file():
            raise ValueError(
                f"Expected {name} in {str(workdir)!r}. Received: none. "
                "`python -m recipes.search --workdir=...` writes it"
            )
    model = keras.saving.load_model(workdir / "model.keras")
    if model.input_shape[1:] != dataset.image_shape:
        raise ValueError(
            f"Expected images of shape {model.input_shape[1:]}, as the model "
            f"takes. Received: {dataset.image_shape}. Choose the --dataset "
            "that it was trained on"
        )
    run_file = functools.partial(
        fliqs_keras.run_tflite, workdir / "model.tflite"
    )
    (in_keras, in_file), labels = training.predictions(
        dataset, training.predictor(model), run_file
    )
    return {
        "accuracy_keras": float(np.mean(in_keras == labels)),
        "accuracy_tflite": float(np.mean(in_file == labels)),
        "agreement": float(np.mean(in_keras == in_file)),
    }


def main(_):
    dataset = data.from_config(augmentation_flags.settings())
    found = run(pathlib.Path(workdir_flags.WORKDIR.value), dataset)
    print(f"Keras            {found['accuracy_keras']:.4f}")
    print(f"LiteRT           {found['accuracy_tflite']:.4f}")
    print(f"same prediction  {found['agreement']:.4f}")


if __name__ == "__main__":
    command_line.run(main)
