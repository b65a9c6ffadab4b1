"""How recipes train, and where they keep what came of it."""

import functools
import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

import fliqs_keras
from recipes import data

OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "sgd": functools.partial(keras.optimizers.SGD, momentum=0.9),
}


def fit(
    model: keras.Model,
    dataset: data.AnyDataset,
    config: Mapping[str, Any],
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Compiles and trains a classifier that returns logits.

    Args:
        model: The model.
        dataset: The data.
        config: `batch_size`, `epochs`, `learning_rate`, and, unless they are
            these, `optimizer` ("adam"), `seed` (0) and `verbose` (2).
        callbacks: Callbacks of `fit`.
    """
    compile_classifier(model, dataset, config)
    model.fit(
        **dataset.fit_arguments(config["batch_size"], config.get("seed", 0)),
        epochs=config["epochs"],
        callbacks=list(callbacks),
        verbose=config.get("verbose", 2),
    )


def compile_classifier(
    model: keras.Model,
    dataset: data.AnyDataset,
    config: Mapping[str, Any],
    jit_compile: bool | str = "auto",
) -> None:
    """Compiles a classifier that returns logits.

    The learning rate falls to zero along a cosine.

    Args:
        model: The model.
        dataset: The data that it will be trained on.
        config: `batch_size`, `epochs`, `learning_rate` and, unless it is
            "adam", `optimizer`.
        jit_compile: As in `keras.Model.compile`.
    """
    steps = -(-dataset.train_size // config["batch_size"]) * config["epochs"]
    schedule = keras.optimizers.schedules.CosineDecay(
        config["learning_rate"], steps
    )
    model.compile(
        optimizer=OPTIMIZERS[config.get("optimizer", "adam")](schedule),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=jit_compile,
    )


def accuracy(model: keras.Model, dataset: data.AnyDataset) -> float:
    """Returns the accuracy on the held-out part."""
    (predicted,), labels = predictions(dataset, predictor(model))
    return float(np.mean(predicted == labels))


def predictor(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from images to the logits of a model."""
    return lambda images: model.predict(images, verbose=0)


def predictions(
    dataset: data.AnyDataset, *predict: Callable[[np.ndarray], np.ndarray]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Classifies the held-out part.

    Args:
        dataset: The data.
        *predict: Functions from images to logits.

    Returns:
        The classes that each function finds most likely, and the labels.
    """
    found: list[list[np.ndarray]] = [[] for _ in predict]
    labels = []
    for images, expected in dataset.test_batches():
        labels.append(expected)
        for function, classes in zip(predict, found, strict=True):
            classes.append(function(images).argmax(axis=1))
    return [np.concatenate(x) for x in found], np.concatenate(labels)


def claim(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Makes a work folder and writes the configuration and versions to it.

    The versions are those of the last run. `ResultLines` keeps those of each
    result, where one run goes on with what another began.

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
        # A setting that there was not yet is as one that is not given.
        changed = {
            k: (before.get(k), config.get(k))
            for k in {*before, *config}
            if before.get(k) != config.get(k)
        }
        if changed:
            raise ValueError(
                f"Expected a work folder of the same configuration. Received: "
                f"{str(workdir)!r}, written with other settings "
                f"(before, now): {changed}. Choose another --workdir"
            )
    workdir.mkdir(parents=True, exist_ok=True)
    content = {"config": config, "versions": versions()}
    path.write_text(json.dumps(content, indent=2) + "\n")


def versions() -> dict[str, str]:
    """Returns the versions that results belong to."""
    return {
        "python": platform.python_version(),
        "fliqs_keras": fliqs_keras.__version__,
        "keras": keras.version(),
        "tensorflow": importlib.metadata.version("tensorflow"),
        "backend": keras.backend.backend(),
        "numpy": np.__version__,
    }
