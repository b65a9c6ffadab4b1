"""Compares searching formats, the architecture, both in turn and both at once.

    python -m recipes.nas_study --workdir=runs/nas --dataset=fashion_mnist \\
        --epochs=2 --batch_size=128 --train_size=30000

A network of MobileNetV2's blocks, at budgets of bit operations that are
multiples of what the network of width 1 costs in the narrowest format. All
train for the same number of steps. Each run is one line of JSON in
results.jsonl of the work folder; runs that it holds already are skipped. The
folder then holds table.md and nas.png.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags

import fliqs_keras
from recipes import (
    command_line,
    data,
    dataset_flags,
    draw_flags,
    nas_table,
    seeds_flags,
    training,
    training_flags,
    workdir_flags,
)
from recipes.mobile_networks import SMALL_MOBILE_NET
from recipes.repeated_training import RepeatedTraining
from recipes.result_lines import ResultLines

FORMATS = ("INT4", "INT5", "INT6", "INT7", "INT8")
UNIFORM = ("INT4", "INT8")
WIDTHS = (0.5, 0.75, 1.0, 1.4)
METHODS = ("joint", "architecture", "uniform", "formats", "in_turn")
_OF_A_WIDTH = ("uniform", "formats")
_OF_A_FORMAT = ("uniform", "architecture")
# How much the architecture may cost in the widest format, searched first, as
# a multiple of the budget that the formats then have to meet.
_TURN_FACTOR = 2.0

_METHODS = flags.DEFINE_multi_enum(
    "method", list(METHODS), list(METHODS), "What is searched"
)
_BUDGETS = flags.DEFINE_multi_float(
    "budget", [0.5, 1.0, 1.8], "Budget, as a multiple of the base network", 0.0
)
_TRAIN_SIZE = flags.DEFINE_integer(
    "train_size", None, "Number of training examples; all by default.", 1
)


@dataclasses.dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        method: One of `METHODS`.
        seed: Seed of the weights, of the order of the data and of samples.
        factor: The budget, as a multiple of the base network's cost; `None`
            for `"uniform"`.
        width: Width of the network, where that is fixed.
        format: The format, where there is one.
    """

    method: str
    seed: int
    factor: float | None = None
    width: float | None = None
    format: str | None = None


def list_runs(
    methods: Sequence[str], factors: Sequence[float], num_seeds: int
) -> Iterator[Run]:
    """Yields the runs, so that the first ones are a whole comparison."""
    for seed in range(num_seeds):
        for method in methods:
            for factor in [None] if method == "uniform" else factors:
                for width in WIDTHS if method in _OF_A_WIDTH else [None]:
                    for name in UNIFORM if method in _OF_A_FORMAT else [None]:
                        yield Run(method, seed, factor, width, name)


class Trainer:
    """Does runs.

    Args:
        dataset: The data.
        config: Settings for `training.compile_classifier`.
    """

    def __init__(self, dataset: data.Dataset, config: Mapping[str, Any]):
        self._dataset = dataset
        self._config = config
        base = fliqs_keras.apply(self._build(1.0), UNIFORM[0])
        self._unit = fliqs_keras.BitOps()(base)
        self._train = functools.lru_cache(maxsize=None)(self._new_training)

    def do(self, run: Run) -> dict[str, Any] | None:
        """Trains and evaluates.

        Returns:
            The result, or `None` if there is no choice that just meets the
            budget.
        """
        start = time.perf_counter()
        target = None if run.factor is None else run.factor * self._unit
        model = {
            "joint": self._search_sizes,
            "architecture": self._search_sizes,
            "uniform": self._train_uniform,
            "formats": self._search_formats,
            "in_turn": self._search_in_turn,
        }[run.method](run, target)
        if model is None:
            return None
        macs = sum(row.macs for row in fliqs_keras.summary(model).quantized)
        assignment = fliqs_keras.FormatAssignment.from_model(model)
        return {
            **dataclasses.asdict(run),
            "target": target,
            "accuracy": round(training.accuracy(model, self._dataset), 5),
            "cost": fliqs_keras.BitOps()(model),
            "macs": macs,
            "formats": {name: f.name for name, f in assignment.items()},
            "seconds": round(time.perf_counter() - start, 2),
        }

    def _train_uniform(self, run, _):
        train, _ = self._train(run.width, (run.format,))
        names = fliqs_keras.FormatAssignment.from_model(train.model)
        fixed = fliqs_keras.FixedFormats(dict.fromkeys(names, run.format))
        return train(run.seed, [fixed])

    def _search_formats(self, run, target):
        return self._search(run, target, run.width, FORMATS)

    def _search_sizes(self, run, target):
        formats = FORMATS if run.format is None else (run.format,)
        searched = self._search(run, target, None, formats)
        return None if searched is None else fliqs_keras.nas.extract(searched)

    def _search_in_turn(self, run, target):
        half = {**self._config, "epochs": self._config["epochs"] // 2}
        searched = self._search(
            run, _TURN_FACTOR * target, None, FORMATS[-1:], half["epochs"]
        )
        if searched is None:
            return None
        found = fliqs_keras.nas.extract(searched, FORMATS)
        training.compile_classifier(
            found, self._dataset, half, jit_compile=False
        )
        found.fit(
            self._dataset.x_train,
            self._dataset.y_train,
            batch_size=half["batch_size"],
            epochs=half["epochs"],
            callbacks=[self._callback(run, target)],
            verbose=0,
        )
        return found

    def _search(self, run, target, width, formats, epochs=None):
        """Searches; returns `None` if all choices or none meet the budget."""
        train, costs = self._train(width, formats, epochs)
        if not costs.cheapest < target < costs.dearest:
            return None
        return train(run.seed, [self._callback(run, target)])

    def _callback(self, run, target):
        return fliqs_keras.FormatSearch(
            target, data=self._dataset.examples(), seed=run.seed
        )

    def _new_training(self, width, formats, epochs=None):
        """Returns what trains networks, and what they may cost.

        The largest network with choices of its sizes, if `width` is `None`.
        """
        space = fliqs_keras.SearchSpace(formats)
        if width is None:
            space = SMALL_MOBILE_NET.space(formats)
        config = dict(self._config)
        if epochs is not None:
            config["epochs"] = epochs
        build = functools.partial(self._build, width)
        return (
            RepeatedTraining(build, self._dataset, config, space),
            fliqs_keras.budget(build(), space),
        )

    def _build(self, width):
        shape = self._dataset.image_shape, self._dataset.num_classes
        if width is None:
            return SMALL_MOBILE_NET.build_largest(*shape)
        return SMALL_MOBILE_NET.build(*shape, width)


def run(
    config: Mapping[str, Any],
    dataset: data.Dataset,
    runs: Sequence[Run],
    workdir: pathlib.Path,
) -> None:
    """Does the runs that the work folder does not hold yet.

    Args:
        config: What `Trainer` takes, `train_size`, and which data it is.
        dataset: The data.
        runs: The runs.
        workdir: Folder for the results. It may hold others of the same
            configuration.

    Raises:
        ValueError: If it holds results of another configuration, or if the
            epochs cannot be halved.
    """
    if config["epochs"] % 2:
        raise ValueError(
            "Expected an even number of epochs, half of which goes to each "
            f"part of the method 'in_turn'. Received: {config['epochs']}. Set "
            "--epochs"
        )
    training.claim(workdir, config)
    size = config["train_size"] or len(dataset.x_train)
    dataset = dataclasses.replace(
        dataset,
        x_train=dataset.x_train[:size],
        y_train=dataset.y_train[:size],
    )
    trainer = Trainer(dataset, config)
    ResultLines(workdir / "results.jsonl").complete(runs, trainer.do)


def draw(workdir: pathlib.Path) -> str:
    """Writes the table and the figure of the results there are.

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
    table = nas_table.render(results)
    (workdir / "table.md").write_text(table + "\n")
    figure = fliqs_keras.plots.accuracy_against_cost(
        nas_table.series(results), cost_unit="MBOPs", frontiers=True
    )
    figure.savefig(workdir / "nas.png", dpi=150)
    return table


def main(_):
    workdir = pathlib.Path(workdir_flags.WORKDIR.value)
    config = {
        **dataset_flags.which(),
        "train_size": _TRAIN_SIZE.value,
        **training_flags.settings(),
    }
    runs = list_runs(
        _METHODS.value, _BUDGETS.value, seeds_flags.NUM_SEEDS.value
    )
    if not draw_flags.DRAW_ONLY.value:
        dataset = data.in_memory(dataset_flags.settings())
        run(config, dataset, list(runs), workdir)
    print(draw(workdir))


if __name__ == "__main__":
    command_line.run(main)
