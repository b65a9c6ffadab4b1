"""How recipes train, and where they keep what came of it."""

import json
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from recipes import data


def fit(
    model: keras.Model,
    dataset: data.Dataset,
    config: Mapping[str, Any],
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Compiles and trains a classifier that returns logits.

    Args:
        model: The model.
        dataset: The data.
        config: `batch_size`, `epochs`, `learning_rate`, and `verbose` (2
            unless it is there).
        callbacks: Callbacks of `fit`.
    """
    compile_classifier(model, dataset, config)
    model.fit(
        dataset.x_train,
        dataset.y_train,
        batch_size=config["batch_size"],
        epochs=config["epochs"],
        callbacks=list(callbacks),
        verbose=config.get("verbose", 2),
    )


def compile_classifier(
    model: keras.Model,
    dataset: data.Dataset,
    config: Mapping[str, Any],
    jit_compile: bool | str = "auto",
) -> None:
    """Compiles a classifier that returns logits.

    Adam, whose learning rate falls to zero along a cosine.

    Args:
        model: The model.
        dataset: The data that it will be trained on.
        config: `batch_size`, `epochs` and `learning_rate`.
        jit_compile: As in `keras.Model.compile`.
    """
    steps = -(-len(dataset.x_train) // config["batch_size"]) * config["epochs"]
    schedule = keras.optimizers.schedules.CosineDecay(
        config["learning_rate"], steps
    )
    model.compile(
        optimizer=keras.optimizers.Adam(schedule),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=jit_compile,
    )


def accuracy(model: keras.Model, dataset: data.Dataset) -> float:
    """Returns the accuracy on the held-out part."""
    predicted = model.predict(dataset.x_test, verbose=0).argmax(axis=1)
    return float(np.mean(predicted == dataset.y_test))


def claim(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Makes a work folder and writes the configuration and versions to it.

    Args:
        workdir: The folder. It may hold an earlier run of the same
            configuration, or one that ended before it wrote anything.
        config: The configuration.

    Raises:
        ValueError: If it holds a run of another configuration.
    """
    path = workdir / "config.json"
    if path.exists() and any(other != path for other in workdir.iterdir()):
        before = json.loads(path.read_text())["config"]
        if before != config:
            changed = {
                k: (before.get(k), config.get(k))
                for k in {*before, *config}
                if before.get(k) != config.get(k)
            }
            raise ValueError(
                f"Expected a work folder of the same configuration. Received: "
                f"{str(workdir)!r}, written with other settings "
                f"(before, now): {changed}. Choose another --workdir"
            )
    versions = {
        "python": platform.python_version(),
        "keras": keras.version(),
        "backend": keras.backend.backend(),
        "numpy": np.__version__,
    }
    workdir.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"config": config, "versions": versions}, indent=2) + "\n"
    )
