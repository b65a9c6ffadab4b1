"""Measures what each format of each layer adds to the loss.

    python -m recipes.sensitivity --workdir=runs/sensitivity
    python -m recipes.sensitivity --workdir=runs/sensitivity --epochs=5 \\
        --learning_rate=1e-4 --model=runs/float/model.keras

The network trains in the widest of the formats; with the path of a .keras
file, training goes on from its weights. Then each other format is tried in
each layer alone, by forward passes on the same training examples. They take
6 % of the training, so that more epochs are more examples.

The work folder then holds config.json, sensitivity.json, sensitivity.md and
sensitivity.png, and the log of the training in search.jsonl.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import keras
from absl import flags

import fliqs_keras
from recipes import (
    command_line,
    data,
    dataset_flags,
    model_flags,
    models,
    training,
    training_flags,
    workdir_flags,
)

Estimates = Mapping[str, Mapping[str, tuple[float, float]]]

_FORMATS = flags.DEFINE_list(
    "measured_formats",
    ["INT2", "INT3", "INT4", "INT6", "INT8"],
    "Formats to measure; the widest is what the others are compared with.",
)


def run(config: Mapping[str, Any], workdir: pathlib.Path) -> Estimates:
    """Trains in the widest formats, measures and writes the results.

    Args:
        config: The settings, by the names of the flags.
        workdir: Folder for the results.

    Returns:
        For each layer, for each format, what it is estimated to add to the
        loss, and the standard error.

    Raises:
        ImportError: If matplotlib is not installed, when all but the figure
            is written.
        ValueError: If `workdir` holds a run of another configuration, or if
            a setting is wrong.
    """
    formats = [fliqs_keras.parse_format(f) for f in config["measured_formats"]]
    if len(set(formats)) < 2:
        raise ValueError(
            "Expected at least two formats, the widest to compare with. "
            f"Received: {config['measured_formats']}"
        )
    training.claim(workdir, config)
    keras.utils.set_random_seed(config["seed"])
    dataset = data.in_memory(config)
    steps = -(-len(dataset.x_train) // config["batch_size"]) * config["epochs"]
    if steps < 2:
        raise ValueError(
            "Expected at least two steps, before the last of which formats "
            f"are tried. Received: {steps}, of {config['epochs']} epochs in "
            f"batches of {config['batch_size']}. Set --epochs or --batch_size"
        )
    model = models.load(
        config["model"],
        dataset.image_shape,
        dataset.num_classes,
        config.get("pretrained", False),
    )
    model = fliqs_keras.apply(model, formats)
    widest = max(formats, key=lambda number_format: number_format.bits)
    search = fliqs_keras.FormatSearch(
        # A target that leaves the search nothing to give up: it is not what
        # is asked for here.
        (widest.name, 1.0),
        data=(dataset.x_train, dataset.y_train),
        # Before the last step: all the others train in the widest formats.
        controller=fliqs_keras.Sensitivity(start=(steps - 1) / steps),
        log_dir=workdir,
    )
    training.fit(model, dataset, config, [search])
    (workdir / "sensitivity.json").write_text(
        json.dumps(
            {
                layer: {name: e._asdict() for name, e in row.items()}
                for layer, row in search.sensitivity.items()
            },
            indent=2,
        )
        + "\n"
    )
    table = render(search.sensitivity)
    (workdir / "sensitivity.md").write_text(table + "\n")
    figure = fliqs_keras.plots.sensitivities(search.sensitivity)
    figure.savefig(workdir / "sensitivity.png", dpi=150)
    return search.sensitivity


def render(estimates: Estimates) -> str:
    """Returns the table of thousandths of the loss, in Markdown.

    Layers that lose most in their narrowest format come first.
    """
    names = list(next(iter(estimates.values())))
    narrowest = min(names, key=lambda n: fliqs_keras.parse_format(n).bits)
    lines = [
        "Increase of the loss, in thousandths, ± its standard error.",
        "",
        f"| layer | {' | '.join(names)} |",
        "|" + "---|" * (1 + len(names)),
    ]
    for layer, row in sorted(
        estimates.items(), key=lambda item: -item[1][narrowest][0]
    ):
        cells = [
            f"{1000 * mean:.3g} ± {1000 * error:.2g}" if error else "0"
            for mean, error in (row[name] for name in names)
        ]
        lines.append(f"| {layer} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(_):
    config = {
        **dataset_flags.settings(),
        "model": model_flags.MODEL.value,
        "pretrained": model_flags.PRETRAINED.value,
        "measured_formats": _FORMATS.value,
        **training_flags.settings(),
        "seed": model_flags.SEED.value,
    }
    print(render(run(config, pathlib.Path(workdir_flags.WORKDIR.value))))


if __name__ == "__main__":
    command_line.run(main)
