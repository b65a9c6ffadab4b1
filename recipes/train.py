"""Trains a network in float, or in fixed formats.

    python -m recipes.train --workdir=runs/float
    python -m recipes.train --workdir=runs/int8 --assignment=INT8 \\
        --model=runs/float/model.keras

Writes config.json, model.keras and report.json to the work folder, and in fixed
formats search.jsonl, the log. To search the formats of a trained network, give
its file to `recipes.search --model`.
"""

import json
import pathlib
from typing import Any

import keras
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

_ASSIGNMENT = flags.DEFINE_string(
    "assignment",
    None,
    "A format for all layers, or the path of an assignment.json. Defaults to "
    "none: float.",
)


def run(config: dict[str, Any], workdir: pathlib.Path) -> dict[str, Any]:
    """Trains a network.

    Args:
        config: The settings, by the names of the flags.
        workdir: Folder for the results.

    Returns:
        The report: accuracy on held-out data and, in fixed formats, the cost.

    Raises:
        ValueError: If `workdir` holds a run of another configuration, or if
            a setting is wrong.
    """
    every_tensor = config.get("every_tensor")
    if every_tensor is not None and config["assignment"] is None:
        raise ValueError(
            "Expected --every_tensor with --assignment: else nothing is "
            f"quantized. Received: --every_tensor={every_tensor} alone"
        )
    training.claim(workdir, config)
    keras.utils.set_random_seed(config["seed"])
    dataset = data.from_config(config)
    model = models.load(
        config["model"],
        dataset.image_shape,
        dataset.num_classes,
        config.get("pretrained", False),
    )
    report = {}
    if config["assignment"] is None:
        training.fit(model, dataset, config)
        # Moving averages lag where there are few steps.
        fliqs_keras.recalibrate_batch_norm(model, dataset.examples()[0])
    else:
        model = fliqs_keras.apply(
            model, _formats(config["assignment"]), every_tensor=every_tensor
        )
        assignment = fliqs_keras.FormatAssignment.from_model(model)
        fixed = fliqs_keras.FixedFormats(assignment, log_dir=workdir)
        training.fit(model, dataset, config, [fixed])
        assignment.to_json(workdir / "assignment.json")
        cost = fliqs_keras.BitOps()
        report |= {"cost": cost(model), "cost_unit": cost.unit}
    report["accuracy"] = training.accuracy(model, dataset)
    model.save(workdir / "model.keras")
    (workdir / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def _formats(assignment: str) -> str | fliqs_keras.FormatAssignment:
    if not assignment.endswith(".json"):
        return assignment
    if not pathlib.Path(assignment).is_file():
        raise ValueError(
            "Expected --assignment to be a format or the path of a JSON file "
            f"that is there. Received: {assignment!r}"
        )
    return fliqs_keras.FormatAssignment.from_json(assignment)


def main(_):
    preset_flags.use()
    config = {
        **augmentation_flags.settings(),
        "model": model_flags.MODEL.value,
        "pretrained": model_flags.PRETRAINED.value,
        "assignment": _ASSIGNMENT.value,
        "every_tensor": tensor_flags.EVERY_TENSOR.value,
        **training_flags.settings(),
        "seed": model_flags.SEED.value,
    }
    report = run(config, pathlib.Path(workdir_flags.WORKDIR.value))
    for name, value in report.items():
        print(f"{name:<12}{value}")


if __name__ == "__main__":
    command_line.run(main)
