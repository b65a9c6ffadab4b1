"""A search by trials, as AutoQKeras makes it, beside a search in one run."""

import dataclasses
import math
import resource
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import keras_tuner

import fliqs_keras
from recipes import data, models, training

# AutoQKeras's forgiving factor: how much accuracy, relatively, half the cost
# is worth.
_FORGIVING = 0.08


class FormatTrials(keras_tuner.HyperModel):
    """Trains a network anew in the formats of a trial.

    Args:
        options: Names of the formats of each decision.
        target: What the formats may cost, in GBOPs.
        dataset: The data, whose held-out part judges the trials.
        config: Settings, as `compare` takes them.
    """

    def __init__(
        self,
        options: Mapping[str, tuple[str, ...]],
        target: float,
        dataset: data.Dataset,
        config: Mapping[str, Any],
    ):
        super().__init__()
        self.trials: list[dict[str, Any]] = []
        self._options = options
        self._target = target
        self._dataset = dataset
        self._config = {**config, "epochs": config["trial_epochs"]}
        self._start = cpu_seconds()

    def build(self, hp):
        formats = {
            name: hp.Choice(name, list(names))
            for name, names in self._options.items()
        }
        network = build_network(self._dataset, self._config)
        return fliqs_keras.apply(network, formats)

    def fit(self, hp, model, *args, **kwargs):
        _fit(model, self._dataset, self._config)
        accuracy = training.accuracy(model, self._dataset)
        cost = fliqs_keras.BitOps()(model)
        self.trials.append(
            {
                "formats": dict(hp.values),
                "cost": cost / self._target,
                "validation_accuracy": accuracy,
                "cpu_seconds": cpu_seconds() - self._start,
                "model": model,
            }
        )
        halvings = math.log2(self._target / cost)
        return {"score": accuracy * (1 + _FORGIVING * halvings)}


class TimedTuner(keras_tuner.BayesianOptimization):
    """Makes no further trial once the time is used up."""

    def __init__(self, trials: FormatTrials, budget: float, **kwargs):
        super().__init__(trials, **kwargs)
        self._trials = trials
        self._budget = budget

    def on_trial_end(self, trial):
        super().on_trial_end(trial)
        if self._trials.trials[-1]["cpu_seconds"] > self._budget:
            self.oracle.max_trials = len(self.oracle.trials)


def cpu_seconds() -> float:
    """Returns the seconds of CPU that the process has used.

    What else the machine does moves them less than those of a clock.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def timed(function: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Returns what a function returns, and what it took."""
    start, cpu_start = time.perf_counter(), cpu_seconds()
    result = function()
    return result, {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": cpu_seconds() - cpu_start,
    }


def _fit(
    model: keras.Model,
    dataset: data.Dataset,
    config: Mapping[str, Any],
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Compiles and trains, as the study does."""
    # XLA takes longer to compile such a net than to train it.
    training.compile_classifier(model, dataset, config, jit_compile=False)
    model.fit(
        dataset.x_train,
        dataset.y_train,
        batch_size=config["batch_size"],
        epochs=config["epochs"],
        callbacks=list(callbacks),
        verbose=0,
    )


def build_network(
    dataset: data.Dataset, config: Mapping[str, Any]
) -> keras.Model:
    """Returns the float network, not trained."""
    return models.build(
        config["network"], dataset.image_shape, dataset.num_classes
    )


def compare(
    dataset: data.Dataset, config: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """Compares one search with the trials that fit in its time.

    A float training, a search of as many steps, then trials until they have
    used as much CPU time as the search. The best of them, by its accuracy on
    the validation part among those within the target, then trains anew with
    all steps, which is not counted.

    Args:
        dataset: The data. A sixth of the training part judges the trials.
        config: `network`, `trial_epochs`, `formats`, `target`, and settings
            for `training.compile_classifier`.
        seed: Seed of the weights, of the order of the data and of the trials.

    Returns:
        Times, accuracies on the test part and costs over the target.
    """
    train, validation = _split(dataset)

    def train_float():
        model = build_network(train, config)
        _fit(model, train, config)
        return model

    def search():
        model = fliqs_keras.apply(
            build_network(train, config), config["formats"]
        )
        callback = fliqs_keras.FormatSearch(
            tuple(config["target"]),
            data=(train.x_train[:1024], train.y_train[:1024]),
            seed=seed,
        )
        _fit(model, train, config, [callback])
        return model, callback

    # What the first training of a process sets up is nobody's.
    _fit(
        build_network(train, config),
        take(train, config["batch_size"]),
        {**config, "epochs": 1},
    )
    keras.utils.set_random_seed(seed)
    network, float_time = timed(train_float)
    keras.utils.set_random_seed(seed)
    (model, callback), search_time = timed(search)
    trials = FormatTrials(
        {name: tuple(config["formats"]) for name in callback.assignment},
        callback.target,
        validation,
        config,
    )
    keras.utils.set_random_seed(seed)
    _run_trials(trials, search_time["cpu_seconds"], seed)
    return {
        "seed": seed,
        "float": {
            **float_time,
            "accuracy": training.accuracy(network, dataset),
        },
        "search": {
            **search_time,
            "accuracy": training.accuracy(model, dataset),
            "cost": fliqs_keras.BitOps()(model) / callback.target,
        },
        "trials": _judge(
            trials.trials, search_time["cpu_seconds"], dataset, train, config
        ),
    }


def take(dataset: data.Dataset, count: int) -> data.Dataset:
    """Returns a data set with the first of its training images."""
    return dataclasses.replace(
        dataset,
        x_train=dataset.x_train[:count],
        y_train=dataset.y_train[:count],
    )


def _split(dataset: data.Dataset) -> tuple[data.Dataset, data.Dataset]:
    """Returns the data to train on, and the same with a validation part."""
    count = len(dataset.x_train) * 5 // 6
    train = take(dataset, count)
    return train, dataclasses.replace(
        train, x_test=dataset.x_train[count:], y_test=dataset.y_train[count:]
    )


def _run_trials(trials: FormatTrials, budget: float, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        TimedTuner(
            trials,
            budget,
            objective=keras_tuner.Objective("score", "max"),
            max_trials=1000,
            seed=seed,
            directory=folder,
        ).search(verbose=0)


def _judge(
    trials: list[dict[str, Any]],
    budget: float,
    dataset: data.Dataset,
    train: data.Dataset,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    in_time = [t for t in trials if t["cpu_seconds"] <= budget]
    affordable = [t for t in in_time if t["cost"] <= 1]
    result = {"in_time": len(in_time), "within_target": len(affordable)}
    if not affordable:
        return result
    best = max(affordable, key=lambda t: t["validation_accuracy"])
    again = fliqs_keras.apply(build_network(train, config), best["formats"])
    _fit(again, train, config)
    return {
        **result,
        "accuracy": training.accuracy(best["model"], dataset),
        "cost": best["cost"],
        "retrained_accuracy": training.accuracy(again, dataset),
    }


def render(rows: list[dict[str, Any]]) -> str:
    """Renders the comparisons, a seed a line, as a Markdown table."""
    lines = [
        "| seed | search / float, time | CPU time | float | search | its cost "
        "/ target | trials in its time | within the target | best of them "
        "| its cost / target | trained in full |",
        "|---" * 11 + "|",
    ]
    for row in rows:
        base, search, trials = row["float"], row["search"], row["trials"]
        cells = [
            str(row["seed"]),
            f"{search['seconds'] / base['seconds']:.2f}",
            f"{search['cpu_seconds'] / base['cpu_seconds']:.2f}",
            _percent(base["accuracy"]),
            _percent(search["accuracy"]),
            f"{search['cost']:.2f}",
            str(trials["in_time"]),
            str(trials["within_target"]),
            _percent(trials.get("accuracy")),
            f"{trials['cost']:.2f}" if "cost" in trials else "",
            _percent(trials.get("retrained_accuracy")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(accuracy: float | None) -> str:
    return "none" if accuracy is None else f"{100 * accuracy:.1f}"
