"""Exports the model of a run, and compares the file with Keras.

    python -m recipes.export --workdir=runs/digits --file_format=onnx

Writes model.tflite or model.onnx to the work folder, next to the model.keras
that `recipes.search` or `recipes.train --assignment` left there.
"""

import pathlib
from typing import Any

import keras
from absl import flags

import fliqs_keras
from recipes import augmentation_flags, command_line, data, workdir_flags

_FILE_FORMAT = flags.DEFINE_enum(
    "file_format", "tflite", ["tflite", "onnx"], "What to write."
)
_MODE = flags.DEFINE_enum(
    "mode", "dequantize", ["dequantize", "integer"], "As for export_tflite."
)
_INTEGER_IO = flags.DEFINE_bool(
    "integer_io",
    False,
    "Whether the file takes and returns 8-bit integers; of what "
    "--every_tensor=INT8 trained.",
)
_STORAGE = flags.DEFINE_enum(
    "storage", "compact", ["compact", "fast"], "Storage of weights."
)


def run(
    workdir: pathlib.Path,
    dataset: data.AnyDataset,
    file_format: str = "tflite",
    **options: Any,
) -> fliqs_keras.ExportReport:
    """Exports a model and verifies the file.

    Args:
        workdir: Folder with `model.keras`.
        dataset: Data; the file is compared on some of its held-out part.
        file_format: `"tflite"` or `"onnx"`.
        **options: For `fliqs_keras.export_tflite`.

    Raises:
        ValueError: If there is no model, or one that is not quantized.
    """
    path = workdir / "model.keras"
    if not path.is_file():
        raise ValueError(
            f"Expected model.keras in {str(workdir)!r}. Received: none. "
            "`python -m recipes.search --workdir=...` writes it"
        )
    model = keras.saving.load_model(path)
    images = next(iter(dataset.test_batches()))[0]
    if file_format == "onnx":
        return fliqs_keras.export_onnx(
            model, workdir / "model.onnx", verify_data=images
        )
    return fliqs_keras.export_tflite(
        model, workdir / "model.tflite", verify_data=images, **options
    )


def _check_options() -> None:
    given = [
        f"--{flag.name}"
        for flag in (_MODE, _INTEGER_IO, _STORAGE)
        if flag.value != flag.default
    ]
    if given and _FILE_FORMAT.value == "onnx":
        raise ValueError(
            "Expected flags of LiteRT files for such files only. Received: "
            f"--file_format=onnx with {', '.join(given)}. Leave them out"
        )


def main(_):
    _check_options()
    options = {
        "mode": _MODE.value,
        "integer_io": _INTEGER_IO.value,
        "weight_storage": _STORAGE.value,
    }
    dataset = data.from_config(augmentation_flags.settings())
    workdir = pathlib.Path(workdir_flags.WORKDIR.value)
    print(run(workdir, dataset, _FILE_FORMAT.value, **options))


if __name__ == "__main__":
    command_line.run(main)
