"""Compares ways of choosing formats at equal cost and equal training.

    python -m recipes.study --dataset=fashion_mnist --epochs=1 \\
        --results=docs/study/fashion_mnist.jsonl

Each run is one line of JSON in the file of results. Runs that the file holds
already are skipped, so that the study can be stopped and continued, and run
in pieces (`--networks`, `--spaces`, `--methods`, `--seeds`). At the end, or
at once with `--table_only`, it prints a table.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
from absl import flags

import fliqs_keras
from recipes import (
    command_line,
    data,
    dataset_flags,
    models,
    study_table,
    training,
    training_flags,
)
from recipes.repeated_training import RepeatedTraining
from recipes.result_lines import ResultLines
from recipes.rival_assignments import draw_assignment, widen_by_hand
from recipes.study_runs import SPACES, Run, list_runs

NETWORKS = ("narrow_resnet", "separable_net", "vision_transformer")
METHODS = (
    "uniform",
    "sensitivity",
    "reinforce",
    "by_hand",
    "random",
    "from_scratch",
)
# The paper's controller with other schedules of the entropy; not by default.
ABLATIONS = {
    f"reinforce_{name}": fliqs_keras.Reinforce(entropy_schedule=name)
    for name in ("none", "constant", "linear", "step")
}
_RANDOM_TRIALS = 4
_HELD_OUT = 5000

_RESULTS = flags.DEFINE_string(
    "results", "runs/study.jsonl", "File that results are added to."
)
_NETWORKS = flags.DEFINE_list("networks", list(NETWORKS), "Networks.")
_SPACES = flags.DEFINE_list("spaces", list(SPACES), "Search spaces.")
_METHODS = flags.DEFINE_list("methods", list(METHODS), "Ways of choosing.")
_UNIFORM = flags.DEFINE_list(
    "uniform_formats",
    [*SPACES["wide"], *SPACES["fliqs_l"]],
    "Formats of the method 'uniform'.",
)
_START = flags.DEFINE_enum(
    "start",
    "scratch",
    ["scratch", "float"],
    "What runs begin with: new weights, or those of a network trained in "
    "float for as long, at a third of the learning rate.",
)
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2", "3", "4"], "Seeds.")
for _name, _choices in (
    ("networks", models.MODELS),
    ("spaces", SPACES),
    ("methods", (*METHODS, *ABLATIONS)),
    ("uniform_formats", _UNIFORM.default),
):
    flags.register_validator(
        _name,
        lambda names, choices=tuple(_choices): set(names) <= set(choices),
        f"Expected some of {', '.join(_choices)}.",
    )
flags.register_validator(
    "seeds",
    lambda seeds: all(seed.isdigit() for seed in seeds),
    "Expected whole numbers.",
)
_TABLE_ONLY = flags.DEFINE_bool(
    "table_only", False, "Print the table of the results there are."
)


class Study:
    """Runs what a file of results does not hold yet.

    Args:
        dataset: The data.
        settings: What all runs share: settings for
            `training.compile_classifier`, and which data it is.
        path: The file of results.

    Raises:
        ValueError: If the file holds results of other settings.
    """

    def __init__(
        self,
        dataset: data.Dataset,
        settings: Mapping[str, Any],
        path: pathlib.Path,
    ):
        # A setting that is not given may not have been there yet.
        self._settings = {k: v for k, v in settings.items() if v is not None}
        held_out = min(_HELD_OUT, len(dataset.x_train) // 10)
        self._held_out = dataclasses.replace(
            dataset,
            x_test=dataset.x_train[:held_out],
            y_test=dataset.y_train[:held_out],
        )
        self._dataset = dataclasses.replace(
            dataset,
            x_train=dataset.x_train[held_out:],
            y_train=dataset.y_train[held_out:],
        )
        self._lines = ResultLines(path)
        for result in self._lines.results:
            if result["settings"] != self._settings:
                raise ValueError(
                    f"Expected results of settings {self._settings} in "
                    f"{str(path)!r}. Received: {result['settings']}. Choose "
                    "another --results"
                )

    @property
    def results(self) -> list[dict[str, Any]]:
        """All results that the file holds."""
        return self._lines.results

    def complete(self, runs: Iterable[Run]) -> None:
        """Does the runs whose results are not there yet, and writes these.

        Raises:
            ValueError: If a run needs the result of one that is not there.
        """
        self._lines.complete(runs, self._do)

    def _do(self, run: Run) -> dict[str, Any]:
        methods = {
            "uniform": self._uniform,
            "by_hand": self._by_hand,
            "random": self._random,
            "from_scratch": self._from_scratch,
        }
        return {
            **dataclasses.asdict(run),
            **methods.get(run.method, self._search)(run),
            "settings": self._settings,
        }

    def _uniform(self, run: Run):
        model = self._training(run).model
        names = fliqs_keras.FormatAssignment.from_model(model)
        return self._train_fixed(run, dict.fromkeys(names, run.budget[0]))

    def _by_hand(self, run: Run):
        model = self._training(run).model
        assignment = widen_by_hand(
            model, SPACES[run.space], run.budget[0], target_of(model, run)
        )
        return self._train_fixed(run, assignment)

    def _from_scratch(self, run: Run):
        wanted = dataclasses.replace(run, method="sensitivity")
        search = self._lines.find(dataclasses.asdict(wanted))
        if search is None:
            raise ValueError(
                "Expected the search whose formats are trained from scratch. "
                f"Received: no result of {run} with method 'sensitivity'. "
                "Run that method, too"
            )
        # Other weights than the search began with, or it would be repeated;
        # from a float network, another one.
        other = dataclasses.replace(run, seed=run.seed + 1000)
        return self._train_fixed(other, search["assignment"])

    def _random(self, run: Run):
        model = self._training(run).model
        generator = np.random.default_rng(run.seed)
        trials = []
        for trial in range(_RANDOM_TRIALS):
            seed = run.seed + 2000 + 100 * trial
            assignment = draw_assignment(
                model, SPACES[run.space], target_of(model, run), generator
            )
            other = dataclasses.replace(run, seed=seed)
            trials.append(self._train_fixed(other, assignment))
        return max(trials, key=lambda trial: trial["held_out_accuracy"])

    def _search(self, run: Run):
        search = fliqs_keras.FormatSearch(
            run.budget,
            data=self._dataset.examples(),
            controller=ABLATIONS.get(run.method, run.method),
            seed=run.seed,
        )
        return self._fit(run, search)

    def _train_fixed(self, run: Run, assignment: Mapping[str, Any]):
        return self._fit(run, fliqs_keras.FixedFormats(assignment))

    def _fit(
        self, run: Run, callback: keras.callbacks.Callback
    ) -> dict[str, Any]:
        weights = None
        if run.start == "float":
            weights = self._float_weights(run.network, run.seed)
        start = time.perf_counter()
        model = self._training(run)(run.seed, [callback], weights)
        seconds = time.perf_counter() - start
        assignment = fliqs_keras.FormatAssignment.from_model(model)
        return {
            "accuracy": round(training.accuracy(model, self._dataset), 5),
            "held_out_accuracy": round(
                training.accuracy(model, self._held_out), 5
            ),
            "cost": fliqs_keras.BitOps()(model),
            "target": target_of(model, run),
            "seconds": round(seconds, 2),
            "assignment": {k: v.name for k, v in assignment.items()},
        }

    def _training(self, run: Run) -> RepeatedTraining:
        return self._trained_from(run.network, run.space, run.start)

    # Runs that share a model are done side by side.
    @functools.lru_cache(maxsize=1)  # noqa: B019
    def _trained_from(
        self, network: str, space: str, start: str
    ) -> RepeatedTraining:
        config = dict(self._settings)
        if start == "float":
            config["learning_rate"] /= 3
        space = fliqs_keras.SearchSpace(SPACES[space])
        return self._new_training(network, config, space)

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def _float_weights(self, network: str, seed: int) -> list[np.ndarray]:
        """Returns the weights of a network trained in float, as long."""
        train = self._new_training(network, self._settings)
        return train(seed).get_weights()

    def _new_training(
        self,
        network: str,
        config: Mapping[str, Any],
        space: fliqs_keras.SearchSpace | None = None,
    ) -> RepeatedTraining:
        build = functools.partial(
            models.build,
            network,
            self._dataset.image_shape,
            self._dataset.num_classes,
        )
        return RepeatedTraining(build, self._dataset, config, space)


def target_of(model: keras.Model, run: Run) -> float:
    """Returns what the budget of a run allows."""
    name, factor = run.budget
    names = fliqs_keras.FormatAssignment.from_model(model)
    return factor * fliqs_keras.BitOps()(model, dict.fromkeys(names, name))


def main(_):
    path = pathlib.Path(_RESULTS.value)
    if _TABLE_ONLY.value:
        print(study_table.render(ResultLines(path).results))
        return
    runs = list(
        list_runs(
            _NETWORKS.value,
            _SPACES.value,
            _METHODS.value,
            [int(seed) for seed in _SEEDS.value],
            _UNIFORM.value,
            _START.value,
        )
    )
    if not runs:
        raise ValueError(
            "Expected flags that leave runs to do, uniform formats of "
            "integers with --spaces=wide. Received: --networks="
            f"{','.join(_NETWORKS.value)} --spaces={','.join(_SPACES.value)} "
            f"--methods={','.join(_METHODS.value)} --seeds="
            f"{','.join(_SEEDS.value)} --uniform_formats="
            f"{','.join(_UNIFORM.value)}"
        )
    study = Study(
        data.in_memory(dataset_flags.settings()),
        {**dataset_flags.which(), **training_flags.settings()},
        path,
    )
    study.complete(runs)
    print(study_table.render(study.results))


if __name__ == "__main__":
    command_line.run(main)
