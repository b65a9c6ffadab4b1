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
import json
import pathlib
import time
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
    training_flags,
)
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
_PROBED = 1024

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


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all runs of a study share."""

    dataset: str = "fashion_mnist"
    epochs: int = 1
    batch_size: int = 64
    learning_rate: float = 3e-3


class Study:
    """Runs what a file of results does not hold yet.

    Args:
        dataset: The data.
        settings: What all runs share.
        path: The file of results.

    Raises:
        ValueError: If the file holds results of other settings.
    """

    def __init__(
        self, dataset: data.Dataset, settings: Settings, path: pathlib.Path
    ):
        self._settings = settings
        self._path = path
        held_out = min(_HELD_OUT, len(dataset.x_train) // 10)
        self._train = dataset.x_train[held_out:], dataset.y_train[held_out:]
        self._held_out = dataset.x_train[:held_out], dataset.y_train[:held_out]
        self._test = dataset.x_test, dataset.y_test
        self._num_classes = dataset.num_classes
        self._results = read_results(path)
        expected = dataclasses.asdict(settings)
        for result in self._results:
            if result["settings"] != expected:
                raise ValueError(
                    f"Expected results of settings {expected} in {str(path)!r}"
                    f". Received: {result['settings']}. Choose another "
                    "--results"
                )

    def do(self, run: Run) -> dict[str, Any] | None:
        """Does a run and writes its result, unless it is there already.

        Returns:
            The result, or `None` if it was there.
        """
        if self._find(run) is not None:
            return None
        methods = {
            "uniform": self._uniform,
            "sensitivity": self._search,
            "reinforce": self._search,
            "by_hand": self._by_hand,
            "random": self._random,
            "from_scratch": self._from_scratch,
            **dict.fromkeys(ABLATIONS, self._search),
        }
        model = self._model(run.network, run.space, run.start)
        result = {
            **dataclasses.asdict(run),
            **methods[run.method](run, model),
            "settings": dataclasses.asdict(self._settings),
        }
        # As it will be read: budgets are lists, for one.
        result = json.loads(json.dumps(result))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(result) + "\n")
        self._results.append(result)
        return result

    def _find(self, run: Run) -> dict[str, Any] | None:
        wanted = json.loads(json.dumps(dataclasses.asdict(run)))
        for result in self._results:
            if all(result.get(k, "scratch") == v for k, v in wanted.items()):
                return result
        return None

    def _uniform(self, run: Run, model: keras.Model):
        names = fliqs_keras.FormatAssignment.from_model(model)
        assignment = dict.fromkeys(names, run.budget[0])
        return self._train_fixed(run, model, assignment)

    def _by_hand(self, run: Run, model: keras.Model):
        assignment = widen_by_hand(
            model, SPACES[run.space], run.budget[0], target_of(model, run)
        )
        return self._train_fixed(run, model, assignment)

    def _from_scratch(self, run: Run, model: keras.Model):
        search = self._find(dataclasses.replace(run, method="sensitivity"))
        if search is None:
            raise ValueError(
                "Expected the search whose formats are trained from scratch. "
                f"Received: no result of {run} with method 'sensitivity'. "
                "Run that method, too"
            )
        # Other weights than the search began with, or it would be repeated;
        # from a float network, another one.
        return self._train_fixed(
            dataclasses.replace(run, seed=run.seed + 1000),
            model,
            search["assignment"],
        )

    def _random(self, run: Run, model: keras.Model):
        generator = np.random.default_rng(run.seed)
        trials = []
        for trial in range(_RANDOM_TRIALS):
            seed = run.seed + 2000 + 100 * trial
            trials.append(
                self._train_fixed(
                    dataclasses.replace(run, seed=seed),
                    model,
                    draw_assignment(
                        model,
                        SPACES[run.space],
                        target_of(model, run),
                        generator,
                    ),
                )
            )
        return max(trials, key=lambda trial: trial["held_out_accuracy"])

    def _search(self, run: Run, model: keras.Model):
        x, y = self._train
        search = fliqs_keras.FormatSearch(
            run.budget,
            data=(x[:_PROBED], y[:_PROBED]),
            controller=ABLATIONS.get(run.method, run.method),
            seed=run.seed,
        )
        return self._fit(run, model, search)

    def _train_fixed(self, run, model, assignment):
        fixed = fliqs_keras.FixedFormats(assignment)
        return self._fit(run, model, fixed)

    def _fit(self, run, model, callback) -> dict[str, Any]:
        self._reset(model, run)
        start = time.perf_counter()
        model.fit(
            *self._train,
            batch_size=self._settings.batch_size,
            epochs=self._settings.epochs,
            callbacks=[callback],
            verbose=0,
        )
        seconds = time.perf_counter() - start
        _, accuracy = model.evaluate(*self._test, batch_size=500, verbose=0)
        _, held_out = model.evaluate(*self._held_out, batch_size=500, verbose=0)
        assignment = fliqs_keras.FormatAssignment.from_model(model)
        cost = fliqs_keras.BitOps()
        return {
            "accuracy": round(accuracy, 5),
            "held_out_accuracy": round(held_out, 5),
            "cost": cost(model),
            "target": target_of(model, run),
            "seconds": round(seconds, 2),
            "assignment": {k: v.name for k, v in assignment.items()},
        }

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def _model(self, network: str, space: str, start: str) -> keras.Model:
        """Returns a compiled model; its weights are set anew for each run."""
        model = fliqs_keras.apply(self._build(network), SPACES[space])
        rate = self._settings.learning_rate
        self._compile(model, rate if start == "scratch" else rate / 3)
        model.optimizer.build(model.trainable_variables)
        self._first_state = [v.numpy() for v in model.optimizer.variables]
        return model

    def _build(self, network: str) -> keras.Model:
        shape = self._train[0].shape[1:]
        return models.build(network, shape, self._num_classes)

    def _compile(self, model: keras.Model, learning_rate: float) -> None:
        steps = -(-len(self._train[0]) // self._settings.batch_size)
        schedule = keras.optimizers.schedules.CosineDecay(
            learning_rate, steps * self._settings.epochs
        )
        # XLA takes longer to compile such a net than to train it.
        model.compile(
            optimizer=keras.optimizers.Adam(schedule),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=False,
        )

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def _float_weights(self, network: str, seed: int) -> list[np.ndarray]:
        """Returns the weights of a network trained in float, as long."""
        keras.utils.set_random_seed(seed)
        model = self._build(network)
        self._compile(model, self._settings.learning_rate)
        model.fit(
            *self._train,
            batch_size=self._settings.batch_size,
            epochs=self._settings.epochs,
            verbose=0,
        )
        return model.get_weights()

    def _reset(self, model: keras.Model, run: Run) -> None:
        if run.start == "float":
            weights = self._float_weights(run.network, run.seed)
        keras.utils.set_random_seed(run.seed)
        fresh = self._build(run.network)
        if run.start == "float":
            fresh.set_weights(weights)
        fresh = fliqs_keras.apply(fresh, SPACES[run.space])
        model.set_weights(fresh.get_weights())
        for variable, value in zip(
            model.optimizer.variables, self._first_state, strict=True
        ):
            variable.assign(value)


def target_of(model: keras.Model, run: Run) -> float:
    """Returns what the budget of a run allows."""
    name, factor = run.budget
    names = fliqs_keras.FormatAssignment.from_model(model)
    return factor * fliqs_keras.BitOps()(model, dict.fromkeys(names, name))


def read_results(path: pathlib.Path) -> list[dict[str, Any]]:
    """Reads a file of results; a file that is not there holds none."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def main(_):
    path = pathlib.Path(_RESULTS.value)
    if not _TABLE_ONLY.value:
        settings = Settings(
            dataset_flags.DATASET.value,
            training_flags.EPOCHS.value,
            training_flags.BATCH_SIZE.value,
            training_flags.LEARNING_RATE.value,
        )
        dataset = data.load(
            dataset_flags.DATASET.value, dataset_flags.IDX_FOLDER.value
        )
        study = Study(dataset, settings, path)
        runs = list_runs(
            _NETWORKS.value,
            _SPACES.value,
            _METHODS.value,
            [int(seed) for seed in _SEEDS.value],
            _UNIFORM.value,
            _START.value,
        )
        for run in runs:
            if (result := study.do(run)) is not None:
                print(run, result["accuracy"], flush=True)
    print(study_table.render(read_results(path)))


if __name__ == "__main__":
    command_line.run(main)
