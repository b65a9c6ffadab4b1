"""Compares a search on a trained network with a search from scratch.

    python -m recipes.fine_tuning --workdir=runs/fine_tuning --epochs=1

A network is trained in float. Formats are then searched from its weights for a
few epochs (`--epochs`), at a part of the learning rate. Beside it stand
searches from new weights: as long as that one, and as long as both trainings
together. Each training is a line of results.jsonl in the work folder, and is
not done again.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

import fliqs_keras
from recipes import (
    command_line,
    data,
    dataset_flags,
    models,
    network_flags,
    seeds_flags,
    study_runs,
    study_table,
    training,
    training_flags,
    workdir_flags,
)
from recipes.repeated_training import RepeatedTraining
from recipes.result_lines import ResultLines

FORMATS = study_runs.SPACES["wide"]
BUDGET = study_runs.BUDGETS["wide"][1]
METHODS = {
    "float": "trained in float",
    "fine_tuned": "searched from there",
    "scratch_short": "searched from scratch, as long as that",
    "scratch_long": "searched from scratch, as long as both",
}

_FIRST = flags.DEFINE_integer(
    "first_epochs", 4, "Epochs of the float network.", lower_bound=1
)
_FACTOR = flags.DEFINE_float(
    "rate_factor",
    1 / 3,
    "Learning rate of the search on a trained network, as a part of that of "
    "the others.",
    lower_bound=0.0,
)


class Comparison:
    """Does the trainings that a work folder does not hold yet.

    Args:
        config: `network`, `first_epochs`, `rate_factor`, and settings for
            `training.compile_classifier`.
        dataset: The data.
        workdir: Folder for the results.

    Raises:
        ValueError: If it holds results of another configuration.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        dataset: data.Dataset,
        workdir: pathlib.Path,
    ):
        training.claim(workdir, config)
        self._config = config
        self._dataset = dataset
        self._workdir = workdir
        self.lines = ResultLines(workdir / "results.jsonl")
        self._build = functools.partial(
            models.build,
            config["network"],
            dataset.image_shape,
            dataset.num_classes,
        )

    def do(self, method: str, seed: int) -> None:
        """Does a training, unless its result is there.

        Args:
            method: One of `METHODS`; the float network before what is trained
                from it.
            seed: Seed of the weights and of the order of the data.
        """
        key = {"method": method, "seed": seed}
        if self.lines.find(key) is not None:
            return
        weights = self._workdir / f"float_{seed}.weights.h5"
        if method == "float":
            model = self._training(method)(seed)
            few, _ = self._dataset.examples()
            fliqs_keras.recalibrate_batch_norm(model, few)
            model.save_weights(weights)
        else:
            initial = None
            if method == "fine_tuned":
                float_model = self._build()
                float_model.load_weights(weights)
                initial = float_model.get_weights()
            search = fliqs_keras.FormatSearch(
                BUDGET, data=self._dataset.examples(), seed=seed
            )
            model = self._training(method)(seed, [search], initial)
        accuracy = training.accuracy(model, self._dataset)
        self.lines.add({**key, "accuracy": round(accuracy, 5)})
        print(method, seed, accuracy, flush=True)

    @functools.cache  # noqa: B019
    def _training(self, method: str) -> RepeatedTraining:
        config = dict(self._config)
        if method == "float":
            config["epochs"] = config["first_epochs"]
        if method == "scratch_long":
            config["epochs"] += config["first_epochs"]
        if method == "fine_tuned":
            config["learning_rate"] *= config["rate_factor"]
        space = None if method == "float" else fliqs_keras.SearchSpace(FORMATS)
        return RepeatedTraining(self._build, self._dataset, config, space)


def render(results: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table, in Markdown."""
    accuracies = {
        method: {
            r["seed"]: 100 * r["accuracy"]
            for r in results
            if r["method"] == method
        }
        for method in METHODS
    }
    tuned = accuracies["fine_tuned"]
    lines = [
        "| training | accuracy | searched on the trained network less this |",
        "|---|---|---|",
    ]
    for method, title in METHODS.items():
        values = list(accuracies[method].values())
        if not values:
            continue
        spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
        cell = f"{np.mean(values):.1f} ± {spread:.1f} ({len(values)})"
        gain = study_table.compare(tuned, accuracies[method])
        if method == "fine_tuned" or gain is None:
            lines.append(f"| {title} | {cell} | – |")
        else:
            star = "*" if gain.p_value < 0.05 else ""
            lines.append(f"| {title} | {cell} | {gain.mean:+.1f}{star} |")
    return "\n".join(lines)


def main(_):
    config = {
        **dataset_flags.which(),
        "network": network_flags.NETWORK.value,
        **training_flags.settings(),
        "first_epochs": _FIRST.value,
        "rate_factor": _FACTOR.value,
    }
    dataset = data.in_memory(dataset_flags.settings())
    comparison = Comparison(
        config, dataset, pathlib.Path(workdir_flags.WORKDIR.value)
    )
    for seed in range(seeds_flags.NUM_SEEDS.value):
        for method in METHODS:
            comparison.do(method, seed)
    print(render(comparison.lines.results))


if __name__ == "__main__":
    command_line.run(main)
