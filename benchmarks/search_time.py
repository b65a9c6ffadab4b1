"""Times whole searches beside trainings in one format and in float.

    python -m benchmarks.search_time --dataset=fashion_mnist --epochs=1

All take turns, each with a new model. What counts is `fit`, with its tracing
and all that the search does in it, in processor time: other work of the
machine hardly enters that. With `--searched_network=mobile_sizes` the search is
one of sizes and formats, and what it is compared with is the largest network.
Prints the environment and a table, and writes JSON where it is told to.
"""

import functools
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from absl import app, flags

import fliqs_keras
from benchmarks import networks, step_timing
from benchmarks.jit_flags import JIT_COMPILE
from benchmarks.output_flags import OUTPUT
from benchmarks.turns_flags import ROUNDS
from recipes import data, dataset_flags, models, training_flags
from recipes.mobile_networks import SMALL_MOBILE_NET
from recipes.repeated_training import RepeatedTraining

FORMATS = ("INT4", "INT5", "INT6", "INT7", "INT8")
_PROBED = 1024

_NETWORKS = flags.DEFINE_multi_enum(
    "searched_network",
    [*models.MODELS[2:], networks.SIZED],
    [*models.MODELS, *networks.NETWORKS],
    "The networks, of recipes or benchmarks; of one, sizes are searched, too.",
)


class FitTimer:
    """Processor time from the first callback of `fit` to the last one."""

    def __init__(self):
        self.seconds = 0.0
        start = functools.partial(self._add, -1.0)
        end = functools.partial(self._add, 1.0)
        self.first = keras.callbacks.LambdaCallback(on_train_begin=start)
        self.last = keras.callbacks.LambdaCallback(on_train_end=end)

    def _add(self, sign, logs=None):
        self.seconds += sign * time.process_time()


def measure(
    network: str, dataset: data.Dataset, config: Mapping[str, Any]
) -> dict[str, Any]:
    """Times trainings in float, in one format, and searches, in turns.

    Args:
        network: One of `recipes.models.MODELS`, or of `networks.NETWORKS`,
            which are for ten classes.
        dataset: The data.
        config: `rounds`, `jit_compile`, and settings for
            `training.compile_classifier`.

    Returns:
        Seconds of processor time of a training in float (median), and ratios:
        median, least and largest of the rounds.
    """
    shape = dataset.image_shape
    if network in models.MODELS:
        classes = dataset.num_classes
        build = functools.partial(models.build, network, shape, classes)
    else:
        build = functools.partial(networks.build, network, input_shape=shape)
    space, target = fliqs_keras.SearchSpace(FORMATS), ("INT4", 1.5)
    if network == networks.SIZED:
        space, target = SMALL_MOBILE_NET.space(FORMATS), ("INT4", 0.5)
    fixed = fliqs_keras.SearchSpace("INT8")
    names = fliqs_keras.FormatAssignment.from_model(
        fliqs_keras.apply(build(), fixed)
    )
    few = dataset.x_train[:_PROBED], dataset.y_train[:_PROBED]
    find = functools.partial(fliqs_keras.FormatSearch, target, data=few)
    ways = {
        "float": (None, lambda seed: []),
        "fixed": (fixed, lambda seed: [fliqs_keras.FixedFormats(names)]),
        "search": (space, lambda seed: [find(seed=seed)]),
    }
    seconds = {name: [] for name in ways}
    for seed in range(config["rounds"]):
        for name, (formats, callbacks) in ways.items():
            train = RepeatedTraining(
                build, dataset, config, formats, config["jit_compile"]
            )
            timer = FitTimer()
            train(seed, [timer.first, *callbacks(seed), timer.last])
            seconds[name].append(timer.seconds)
            keras.utils.clear_session()
    seconds = {name: np.array(times) for name, times in seconds.items()}
    row = {
        "network": network,
        "rounds": config["rounds"],
        "float_cpu_seconds": float(np.median(seconds["float"])),
    }
    for name, base in (
        ("fixed", "float"),
        ("search", "fixed"),
        ("search", "float"),
    ):
        ratios = seconds[name] / seconds[base]
        row[f"{name} / {base}"] = float(np.median(ratios))
        row[f"{name} / {base}, range"] = (
            f"{ratios.min():.2f} to {ratios.max():.2f}"
        )
    return row


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only. Received: {argv[1:]}")
    config = {
        **dataset_flags.which(),
        **training_flags.settings(),
        "rounds": ROUNDS.value,
        "jit_compile": JIT_COMPILE.value,
    }
    dataset = data.in_memory(dataset_flags.settings())
    rows = []
    for name in _NETWORKS.value:
        rows.append(measure(name, dataset, config))
        # All of it takes long: what is there should not be lost.
        step_timing.report(config, rows, OUTPUT.value)


if __name__ == "__main__":
    app.run(main)
