"""Compares exported files with a trained network, prediction by prediction.

    python -m recipes.export_study --dataset=fashion_mnist

A network is trained in float. For each of five assignments of formats
it is then trained on, quantized, for two more epochs, exported in both modes,
and run on the held-out images beside Keras. In dequantize mode a layer's
weights and input have its format. In integer mode its weights have, and every
tensor is quantized to INT8 by one quantizer, so that integer kernels can be
used.
"""

import itertools
import pathlib
import tempfile
from typing import Any

import keras
from absl import flags
from keras import layers

import fliqs_keras
from recipes import command_line, data, dataset_flags, models, network_flags

# The formats of the layers with weights in their order, over and over.
ASSIGNMENTS = {
    "INT8": ["INT8"],
    "INT6": ["INT6"],
    "INT4": ["INT4"],
    "E4M3": ["E4M3"],
    "mixed": "INT8 E4M3 INT4 INT6 E2M1 INT2 INT3".split(),
}

_BATCH_SIZE = 128

_FLOAT_EPOCHS = flags.DEFINE_integer(
    "float_epochs", 8, "Epochs before anything is quantized.", lower_bound=1
)
_QUANTIZED_EPOCHS = flags.DEFINE_integer(
    "quantized_epochs", 2, "Epochs in each assignment.", lower_bound=1
)


def run(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Trains, exports and compares.

    Args:
        config: The settings, by the names of the flags.

    Returns:
        A row for each assignment, mode and storage of weights.
    """
    keras.utils.set_random_seed(0)
    dataset = data.in_memory(config)
    float_model = models.build(
        config["network"], dataset.image_shape, dataset.num_classes
    )
    _fit(float_model, dataset, 3e-3, config["float_epochs"])
    rows = []
    for name, formats in ASSIGNMENTS.items():
        assignment = _assign(float_model, formats)
        for mode, every_tensor, storages in (
            ("dequantize", None, ["compact"]),
            ("integer", "INT8", ["compact", "fast"]),
        ):
            model = fliqs_keras.apply(
                float_model, assignment, every_tensor=every_tensor
            )
            _fit(model, dataset, 1e-3, config["quantized_epochs"])
            for storage in storages:
                row = {"formats": name, "mode": mode, "storage": storage}
                rows.append(row | _compare(model, mode, storage, dataset))
    return rows


def _assign(
    model: keras.Model, formats: list[str]
) -> fliqs_keras.FormatAssignment:
    kernels = (layers.Dense, layers.Conv2D, layers.DepthwiseConv2D)
    names = [x.name for x in model.layers if isinstance(x, kernels)]
    return fliqs_keras.FormatAssignment(
        dict(zip(names, itertools.cycle(formats), strict=False))
    )


def _fit(
    model: keras.Model, dataset: data.Dataset, rate: float, epochs: int
) -> None:
    steps = epochs * -(-len(dataset.x_train) // _BATCH_SIZE)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(
        optimizer=keras.optimizers.Adam(schedule),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        dataset.x_train,
        dataset.y_train,
        batch_size=_BATCH_SIZE,
        epochs=epochs,
        verbose=0,
    )


def _compare(
    model: keras.Model, mode: str, storage: str, dataset: data.Dataset
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.tflite"
        report = fliqs_keras.export_tflite(
            model, path, mode=mode, weight_storage=storage, strip_names=True
        )
        verification = fliqs_keras.verify_export(
            model, path, dataset.x_test, batch_size=250
        )
        predicted = fliqs_keras.run_tflite(path, dataset.x_test).argmax(axis=1)
    (delegate,), (builtin,) = verification.runs.values()
    expected = model.predict(dataset.x_test, verbose=0).argmax(axis=1)
    return {
        "accuracy": float((expected == dataset.y_test).mean()),
        "accuracy of the file": float((predicted == dataset.y_test).mean()),
        "same prediction": delegate.argmax_agreement,
        "without XNNPACK": builtin.argmax_agreement,
        "mean difference": delegate.mean,
        "integer kernels": sum(r.kernel == "integer" for r in report.layers),
        "layers": len(report.layers),
        "weight bytes": report.weight_bytes,
        "ideal": report.ideal_bytes,
        "file": report.file_bytes,
    }


def render(rows: list[dict[str, Any]]) -> str:
    """Renders the rows as a Markdown table."""
    lines = [f"| {' | '.join(rows[0])} |", "|---" * len(rows[0]) + "|"]
    for row in rows:
        cells = [
            f"{x:.4g}" if isinstance(x, float) else x for x in row.values()
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main(_):
    table = render(
        run(
            {
                **dataset_flags.settings(),
                "network": network_flags.NETWORK.value,
                "float_epochs": _FLOAT_EPOCHS.value,
                "quantized_epochs": _QUANTIZED_EPOCHS.value,
            }
        )
    )
    print(table)


if __name__ == "__main__":
    command_line.run(main)
