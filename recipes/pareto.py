"""Draws accuracy against cost: searched and uniform formats, several widths.

    python -m recipes.pareto --workdir=runs/pareto

Every search space is searched at every target in a network of every width,
with every seed; uniform formats and the float network are trained alongside.
Each run is one line of JSON in results.jsonl of the work folder. Runs that it
holds already are skipped, so that the study can be stopped and continued, or
extended by other flags. The folder then holds table.md, and a figure for
integers and one for floats.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
from absl import flags

import fliqs_keras
from recipes import (
    command_line,
    data,
    dataset_flags,
    draw_flags,
    models,
    network_flags,
    pareto_table,
    seeds_flags,
    training,
    training_flags,
    workdir_flags,
)
from recipes.repeated_training import RepeatedTraining
from recipes.result_lines import ResultLines

SPACES = {
    "fliqs_s": fliqs_keras.FLIQS_S,
    "fliqs_l": fliqs_keras.FLIQS_L,
    "fliqs_s_float": fliqs_keras.FLIQS_S_FLOAT,
    "fliqs_l_float": fliqs_keras.FLIQS_L_FLOAT,
}
# What targets are multiples of: the narrowest format of a space.
NARROWEST = {
    "fliqs_s": "INT4",
    "fliqs_l": "INT4",
    "fliqs_s_float": "E2M1",
    "fliqs_l_float": "E2M1",
}
UNIFORM = {
    "fliqs_l": ("INT4", "INT5", "INT6", "INT8"),
    "fliqs_l_float": ("E2M1", "E2M2", "E3M2", "E4M3"),
}

_WIDTHS = flags.DEFINE_multi_float(
    "width", [0.5, 1.0, 2.0], "Width of the network", 0.01
)
_SPACES = flags.DEFINE_multi_enum(
    "space", list(SPACES), list(SPACES), "Search space"
)
_FACTORS = flags.DEFINE_multi_float(
    "factor",
    [1.2, 1.8],
    "Target, as a multiple of the cost of the narrowest format of the space",
    1.0,
)


@dataclasses.dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        width: Multiple of the width of the network.
        space: Name of the search space; `None` for the float network.
        method: `"search"`, `"uniform"` or `"float"`.
        budget: Format and factor of the target, for `"uniform"` the format
            and one, for `"float"` `None`.
        seed: Seed of the weights and of the order of the data.
    """

    width: float
    space: str | None
    method: str
    budget: tuple[str, float] | None
    seed: int


def list_runs(
    widths: Sequence[float],
    spaces: Sequence[str],
    factors: Sequence[float],
    num_seeds: int,
) -> Iterator[Run]:
    """Yields the runs, so that the first ones are a whole comparison.

    Seed by seed, in each of them integers before floats.
    """
    for seed in range(num_seeds):
        for width in widths:
            yield Run(width, None, "float", None, seed)
        for uniform_space, names in UNIFORM.items():
            of_kind = [s for s in spaces if NARROWEST[s] in names]
            for width in widths if of_kind else ():
                for name in names:
                    budget = (name, 1.0)
                    yield Run(width, uniform_space, "uniform", budget, seed)
                for space in of_kind:
                    for factor in factors:
                        budget = (NARROWEST[space], factor)
                        yield Run(width, space, "search", budget, seed)


class Trainer:
    """Does runs, and keeps the models that they train.

    Args:
        dataset: The data.
        config: `network`, and settings for `training.compile_classifier`.
    """

    def __init__(self, dataset: data.Dataset, config: Mapping[str, Any]):
        self._dataset = dataset
        self._config = config
        self._trainings: dict[tuple, RepeatedTraining] = {}

    def do(self, run: Run) -> dict[str, Any]:
        """Trains and evaluates; returns the result."""
        start = time.perf_counter()
        callbacks = [] if run.method == "float" else [self._callback(run)]
        model = self._training(run)(run.seed, callbacks)
        if run.method == "float":
            # As the callbacks do: moving averages lag where steps are few.
            few, _ = self._dataset.examples()
            fliqs_keras.recalibrate_batch_norm(model, few)
        result = {
            **dataclasses.asdict(run),
            "accuracy": round(training.accuracy(model, self._dataset), 5),
            "seconds": round(time.perf_counter() - start, 2),
        }
        if run.method != "float":
            assignment = fliqs_keras.FormatAssignment.from_model(model)
            result["cost"] = fliqs_keras.BitOps()(model)
            result["assignment"] = {k: v.name for k, v in assignment.items()}
        return result

    def _callback(self, run: Run) -> keras.callbacks.Callback:
        if run.method == "uniform":
            model = self._training(run).model
            names = fliqs_keras.FormatAssignment.from_model(model)
            return fliqs_keras.FixedFormats(dict.fromkeys(names, run.budget[0]))
        return fliqs_keras.FormatSearch(
            run.budget, data=self._dataset.examples(), seed=run.seed
        )

    def _training(self, run: Run) -> RepeatedTraining:
        key = run.width, run.space
        if key not in self._trainings:
            self._trainings[key] = RepeatedTraining(
                functools.partial(
                    models.build,
                    self._config["network"],
                    self._dataset.image_shape,
                    self._dataset.num_classes,
                    run.width,
                ),
                self._dataset,
                self._config,
                SPACES.get(run.space),
            )
        return self._trainings[key]


def run(
    config: Mapping[str, Any],
    dataset: data.Dataset,
    runs: Sequence[Run],
    workdir: pathlib.Path,
) -> None:
    """Does the runs that the work folder does not hold yet.

    Args:
        config: What `Trainer` takes, and which data it is.
        dataset: The data.
        runs: The runs.
        workdir: Folder for the results. It may hold others of the same
            configuration.

    Raises:
        ValueError: If it holds results of another configuration.
    """
    training.claim(workdir, config)
    trainer = Trainer(dataset, config)
    ResultLines(workdir / "results.jsonl").complete(runs, trainer.do)


def draw(workdir: pathlib.Path) -> str:
    """Writes the table and the figures of the results there are.

    Returns:
        The table.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there are no results.
    """
    results = ResultLines(workdir / "results.jsonl").results
    if not results:
        raise ValueError(
            f"Expected results in {str(workdir)!r}. Received: none. Run it "
            "without --draw_only first"
        )
    table = pareto_table.render(results)
    (workdir / "table.md").write_text(table + "\n")
    levels = {
        f"FP32, width {width:g}": sum(accuracies) / len(accuracies)
        for width, accuracies in pareto_table.float_accuracies(results).items()
    }
    for kind in ("integer", "float"):
        series = pareto_table.series(results, kind)
        if series:
            figure = fliqs_keras.plots.accuracy_against_cost(
                series, cost_unit="MBOPs", frontiers=True, levels=levels
            )
            figure.savefig(workdir / f"{kind}.png", dpi=150)
    return table


def main(_):
    workdir = pathlib.Path(workdir_flags.WORKDIR.value)
    config = {
        **dataset_flags.which(),
        "network": network_flags.NETWORK.value,
        **training_flags.settings(),
    }
    runs = list_runs(
        _WIDTHS.value,
        _SPACES.value,
        _FACTORS.value,
        seeds_flags.NUM_SEEDS.value,
    )
    if not draw_flags.DRAW_ONLY.value:
        dataset = data.in_memory(dataset_flags.settings())
        run(config, dataset, list(runs), workdir)
    print(draw(workdir))


if __name__ == "__main__":
    command_line.run(main)
