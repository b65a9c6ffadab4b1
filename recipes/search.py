"""Searches the number formats of a model and exports the result.

    python -m recipes.search --workdir=runs/digits

The work folder then holds config.json, assignment.json, report.json,
report.html, model.keras and model.tflite; while the search runs, its log is
in search.jsonl, and in event files where TensorBoard is installed.
"""

import functools
import json
import os
import pathlib
from typing import Any

import keras
import numpy as np
from absl import flags

import fliqs_keras
from recipes import (
    augmentation_flags,
    command_line,
    data,
    model_flags,
    models,
    preset_flags,
    tensor_flags,
    training,
    training_flags,
    workdir_flags,
)

_FORMATS = flags.DEFINE_list(
    "formats", ["INT4", "INT8"], "Formats that each layer may take."
)
flags.register_validator(
    "formats", bool, "Expected formats, two or more. Received: none."
)
_TARGET_FORMAT = flags.DEFINE_string(
    "target_format",
    None,
    "Format whose uniform assignment the target is relative to. Defaults to "
    "the first of --formats.",
)
_TARGET_FACTOR = flags.DEFINE_float(
    "target_factor", 1.5, "Target as a multiple of that assignment's cost."
)
_CONTROLLER = flags.DEFINE_enum(
    "controller",
    "sensitivity",
    ["sensitivity", "reinforce"],
    "What chooses the formats; 'reinforce' is the paper's.",
)


def run(config: dict[str, Any], workdir: pathlib.Path) -> dict[str, Any]:
    """Searches, exports and evaluates.

    Args:
        config: The settings, by the names of the flags.
        workdir: Folder for the results. It may hold an earlier run of the
            same configuration, which is replaced.

    Returns:
        The report.

    Raises:
        ValueError: If `workdir` holds a run of another configuration, or if
            a setting is wrong.
    """
    training.claim(workdir, config)
    keras.utils.set_random_seed(config["seed"])
    dataset = data.from_config(config)
    float_model = models.load(
        config["model"],
        dataset.image_shape,
        dataset.num_classes,
        config.get("pretrained", False),
    )
    quantized = fliqs_keras.apply(
        float_model,
        config["formats"],
        every_tensor=config.get("every_tensor"),
    )
    examples = dataset.examples()
    search = fliqs_keras.FormatSearch(
        (config["target_format"], config["target_factor"]),
        data=examples,
        controller=config["controller"],
        seed=config["seed"],
        log_dir=workdir,
    )
    training.fit(quantized, dataset, config, [search])
    training.fit(float_model, dataset, {**config, "verbose": 0})
    # As the search does: moving averages lag where there are few steps.
    fliqs_keras.recalibrate_batch_norm(float_model, examples[0])

    assignment = search.assignment
    assignment.to_json(workdir / "assignment.json")
    quantized.save(workdir / "model.keras")
    exported = fliqs_keras.export_tflite(quantized, workdir / "model.tflite")
    run_file = functools.partial(
        fliqs_keras.run_tflite, workdir / "model.tflite"
    )
    (expected, got), labels = training.predictions(
        dataset, training.predictor(quantized), run_file
    )
    cost = search.cost(quantized)
    report = {
        "cost": cost,
        "cost_unit": search.cost.unit,
        "target": search.target,
        "within_target": cost <= search.target,
        "accuracy_float": training.accuracy(float_model, dataset),
        "accuracy_keras": float(np.mean(expected == labels)),
        "accuracy_tflite": float(np.mean(got == labels)),
        "agreement": float(np.mean(expected == got)),
        "file_bytes": exported.file_bytes,
        "layers": [
            {
                "path": row.path,
                "format": row.format,
                "tensor_type": row.tensor_type,
                "bytes": row.bytes,
            }
            for row in exported.layers
        ],
    }
    (workdir / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    fliqs_keras.write_html_report(
        workdir / "report.html",
        fliqs_keras.summary(quantized),
        title=f"{config['model']} on {config['dataset']}",
        facts={
            "accuracy, float": report["accuracy_float"],
            "accuracy, searched": report["accuracy_keras"],
            "accuracy, file": report["accuracy_tflite"],
            f"cost ({search.cost.unit})": cost,
            "target": search.target,
            "bytes of the file": f"{exported.file_bytes:,}",
        },
        records=fliqs_keras.read_search_log(workdir),
        sensitivity=search.sensitivity,
    )
    return report


def _print_table(report: dict[str, Any], workdir: pathlib.Path) -> None:
    print(f"\n{'layer':<16}{'format':>8}{'in the file':>14}{'bytes':>8}")
    for row in report["layers"]:
        print(
            f"{row['path']:<16}{row['format']:>8}{row['tensor_type']:>14}"
            f"{row['bytes']:>8}"
        )
    print(
        f"\ncost      {report['cost']:.6f} {report['cost_unit']}"
        f" (target {report['target']:.6f})\n"
        f"accuracy  float {report['accuracy_float']:.4f}, searched "
        f"{report['accuracy_keras']:.4f}, file {report['accuracy_tflite']:.4f}"
        f" (same prediction: {report['agreement']:.4f})\n"
        f"file      {os.fspath(workdir / 'model.tflite')},"
        f" {report['file_bytes']} bytes"
    )


def settings() -> dict[str, Any]:
    """Returns the configuration that the flags say."""
    preset_flags.use()
    return {
        **augmentation_flags.settings(),
        "model": model_flags.MODEL.value,
        "pretrained": model_flags.PRETRAINED.value,
        "formats": _FORMATS.value,
        "every_tensor": tensor_flags.EVERY_TENSOR.value,
        "target_format": _TARGET_FORMAT.value or _FORMATS.value[0],
        "target_factor": _TARGET_FACTOR.value,
        "controller": _CONTROLLER.value,
        **training_flags.settings(),
        "seed": model_flags.SEED.value,
    }


def main(_):
    workdir = pathlib.Path(workdir_flags.WORKDIR.value)
    report = run(settings(), workdir)
    _print_table(report, workdir)


if __name__ == "__main__":
    command_line.run(main)
