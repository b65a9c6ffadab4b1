"""Evaluates the model of a run and its LiteRT file side by side.

python -m recipes.evaluate --workdir=runs/digits
"""

import pathlib

import keras
import numpy as np

import fliqs_keras
from recipes import command_line, data, dataset_flags, workdir_flags


def run(workdir: pathlib.Path, dataset: data.Dataset) -> dict[str, float]:
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
    images = dataset.x_test
    if model.input_shape[1:] != images.shape[1:]:
        raise ValueError(
            f"Expected images of shape {model.input_shape[1:]}, as the model "
            f"takes. Received: {images.shape[1:]}. Choose the --dataset that "
            "it was trained on"
        )
    in_keras = model.predict(images, verbose=0).argmax(axis=1)
    in_file = fliqs_keras.run_tflite(workdir / "model.tflite", images).argmax(
        axis=1
    )
    return {
        "accuracy_keras": float(np.mean(in_keras == dataset.y_test)),
        "accuracy_tflite": float(np.mean(in_file == dataset.y_test)),
        "agreement": float(np.mean(in_keras == in_file)),
    }


def main(_):
    dataset = data.load(
        dataset_flags.DATASET.value, dataset_flags.IDX_FOLDER.value
    )
    found = run(pathlib.Path(workdir_flags.WORKDIR.value), dataset)
    print(f"Keras            {found['accuracy_keras']:.4f}")
    print(f"LiteRT           {found['accuracy_tflite']:.4f}")
    print(f"same prediction  {found['agreement']:.4f}")


if __name__ == "__main__":
    command_line.run(main)
