"""Compares exported files with a trained network, prediction by prediction.

    python -m recipes.export_study --dataset=fashion_mnist

A network is trained in float. For each of five assignments of formats it is
then trained on, quantized, for one more epoch, exported in both modes, and
run on the held-out images beside Keras. In dequantize mode a layer's weights
and input have its format. In integer mode its weights have, and every tensor
is quantized to INT8 by one quantizer, so that integer kernels can be used; the
head is INT8.
"""

import itertools
import pathlib
import tempfile
from typing import Any

import keras
from absl import app, flags
from keras import layers

import fliqs_keras
from recipes import data, dataset_flags, models

# The formats of the layers with weights in their order, over and over.
ASSIGNMENTS = {
    "INT8": ["INT8"],
    "INT6": ["INT6"],
    "INT4": ["INT4"],
    "E4M3": ["E4M3"],
    "mixed": "INT8 E4M3 INT4 INT6 E2M1 INT2".split(),
}

_FLOAT_EPOCHS = flags.DEFINE_integer(
    "float_epochs", 6, "Epochs before anything is quantized.", lower_bound=1
)


def run(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Trains, exports and compares.

    Args:
        config: The settings, by the names of the flags.

    Returns:
        A row for each assignment and mode.
    """
    keras.utils.set_random_seed(0)
    dataset = data.load(config["dataset"], config["idx_folder"])
    float_model = models.build(
        "depthwise_net", dataset.x_train.shape[1:], dataset.num_classes
    )
    _fit(float_model, dataset, 3e-3, config["float_epochs"])
    rows = []
    for name, formats in ASSIGNMENTS.items():
        for mode, quantize in (
            ("dequantize", _quantize_inputs),
            ("integer", _quantize_every_tensor),
        ):
            model = quantize(float_model, _assign(float_model, formats))
            _fit(model, dataset, 1e-3, 1)
            rows.append(
                {
                    "formats": name,
                    "mode": mode,
                    **_compare(model, mode, dataset),
                }
            )
    return rows


def _assign(model: keras.Model, formats: list[str]) -> dict[str, str]:
    kernels = (layers.Dense, layers.Conv2D, layers.DepthwiseConv2D)
    names = [x.name for x in model.layers if isinstance(x, kernels)]
    return dict(zip(names, itertools.cycle(formats), strict=False))


def _quantize_inputs(
    model: keras.Model, assignment: dict[str, str]
) -> keras.Model:
    return fliqs_keras.apply(model, fliqs_keras.FormatAssignment(assignment))


def _quantize_every_tensor(
    model: keras.Model, assignment: dict[str, str]
) -> keras.Model:
    """Has one quantizer behind each op that makes a tensor.

    A batch normalization and a ReLU fold into the convolution before them.
    """
    output = fliqs_keras.SwitchableQuantizeConfig(
        (), quantize_input=False, quantize_output=True
    )
    weights = fliqs_keras.SwitchableQuantizeConfig(quantize_input=False)
    depthwise = fliqs_keras.SwitchableQuantizeConfig(
        channel_axes=(-2, -1), quantize_input=False
    )
    # The output of the head has the format of its weights.
    ends = {"head": "INT8"} | {
        layer.name: "INT8"
        for layer in model.layers
        if isinstance(layer, layers.ReLU | layers.GlobalAveragePooling2D)
    }
    return fliqs_keras.apply(
        model,
        fliqs_keras.FormatAssignment({**assignment, **ends}),
        quantize_configs={
            layers.ReLU: output,
            layers.GlobalAveragePooling2D: output,
            layers.Conv2D: weights,
            layers.DepthwiseConv2D: depthwise,
            # It reads the images, which are quantized, too.
            "stem": fliqs_keras.SwitchableQuantizeConfig(),
            "head": fliqs_keras.SwitchableQuantizeConfig(
                quantize_input=False, quantize_output=True
            ),
        },
    )


def _fit(
    model: keras.Model, dataset: data.Dataset, rate: float, epochs: int
) -> None:
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        dataset.x_train,
        dataset.y_train,
        batch_size=128,
        epochs=epochs,
        verbose=0,
    )


def _compare(
    model: keras.Model, mode: str, dataset: data.Dataset
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.tflite"
        report = fliqs_keras.export_tflite(
            model, path, mode=mode, strip_names=True
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


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only. Received: {argv[1:]}")
    table = render(
        run(
            {
                "dataset": dataset_flags.DATASET.value,
                "idx_folder": dataset_flags.IDX_FOLDER.value,
                "float_epochs": _FLOAT_EPOCHS.value,
            }
        )
    )
    print(table)


if __name__ == "__main__":
    app.run(main)
