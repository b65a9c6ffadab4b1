"""Ways to train, timed in turns, and their peak memory."""

import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import keras
import numpy as np

import fliqs_keras
from benchmarks import networks
from recipes import training
from recipes.mobile_networks import SMALL_MOBILE_NET

TWO = ("INT4", "INT8")
SIXTEEN = (
    *(f"INT{bits}" for bits in range(2, 10)),
    *("E2M1", "E2M2", "E2M3", "E3M2", "E3M3", "E4M3", "E5M2", "BF16"),
)
_SIZES = "search of sizes and 2 formats"
# The formats of each way to train; none for the float network.
WAYS = {
    "float": (),
    "fixed INT8": ("INT8",),
    "fixed E4M3": ("E4M3",),
    "search of 2 formats": TWO,
    "search of 16 formats": SIXTEEN,
    _SIZES: TWO,
}


def ways_of(network: str) -> list[str]:
    """Returns the ways to train a network: not all have sizes to search."""
    return [w for w in WAYS if w != _SIZES or network == networks.SIZED]


class StepTimer(keras.callbacks.Callback):
    """Times training steps, what callbacks do in them included.

    Attributes:
        seconds: Wall time from each end of a step to the next.
        cpu_seconds: The same in processor time, over all threads.
    """

    def __init__(self):
        super().__init__()
        self._ends = []

    def on_train_batch_end(self, batch, logs=None):
        self._ends.append((time.perf_counter(), time.process_time()))

    @property
    def seconds(self) -> list[float]:
        return np.diff(self._ends, axis=0)[:, 0].tolist()

    @property
    def cpu_seconds(self) -> list[float]:
        return np.diff(self._ends, axis=0)[:, 1].tolist()


class Trainer:
    """Trains one network in one way, a round at a time.

    Args:
        way: One of `ways_of` the network.
        config: The settings, by the names of the flags.
    """

    def __init__(self, way: str, config: dict[str, Any]):
        keras.utils.set_random_seed(0)
        model = networks.build(config["network"], config["depth"])
        formats, self._target = WAYS[way], ("INT4", 1.5)
        if way == _SIZES:
            formats = SMALL_MOBILE_NET.space(formats)
            # Less than the largest network in INT4.
            self._target = ("INT4", 0.5)
        if formats:
            model = fliqs_keras.apply(model, formats)
        model.compile(
            # Steps of no length: deep chains diverge on noise.
            keras.optimizers.SGD(0.0, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=config["jit_compile"],
        )
        count = config["steps"] * config["batch"]
        rng = np.random.default_rng(0)
        x = rng.normal(size=(count, *model.input_shape[1:]))
        self._x = x.astype("float32")
        self._y = rng.integers(0, 10, count)
        self._model = model
        self._batch = config["batch"]
        self._is_search = len(WAYS[way]) > 1

    def train(self) -> StepTimer:
        """Trains a round; returns what its steps took."""
        timer = StepTimer()
        callbacks = [timer]
        if self._is_search:
            # The paper's controller samples formats at every step.
            callbacks.append(
                fliqs_keras.FormatSearch(
                    self._target,
                    controller=fliqs_keras.Reinforce(settle=0.0),
                    activation_delay=0.0,
                    seed=0,
                )
            )
        self._model.fit(
            self._x,
            self._y,
            batch_size=self._batch,
            verbose=0,
            callbacks=callbacks,
        )
        return timer


def measure_time(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Times the ways in turns.

    Args:
        config: The settings, by the names of the flags.

    Returns:
        A row for each way: seconds of a step and of the first round, which
        compiles, each also in processor time, and the ratios to the first
        way. Other work of the machine is in wall time, but hardly in
        processor time.
    """
    trainers = {way: Trainer(way, config) for way in config["ways"]}
    first = {}
    for way, trainer in trainers.items():
        start = time.perf_counter(), time.process_time()
        trainer.train()
        end = time.perf_counter(), time.process_time()
        first[way] = end[0] - start[0], end[1] - start[1]
    wall = {way: [] for way in trainers}
    cpu = {way: [] for way in trainers}
    for _ in range(config["rounds"]):
        for way, trainer in trainers.items():
            timer = trainer.train()
            wall[way] += timer.seconds
            cpu[way] += timer.cpu_seconds
    base = next(iter(trainers))
    return [
        {
            "way": way,
            "ratio": _median_ratio(wall, way, base),
            "cpu_ratio": _median_ratio(cpu, way, base),
            "step_seconds": statistics.median(wall[way]),
            "step_cpu_seconds": statistics.median(cpu[way]),
            "first_round_seconds": first[way][0],
            "first_round_cpu_seconds": first[way][1],
            "first_round_cpu_ratio": first[way][1] / first[base][1],
        }
        for way in trainers
    ]


def _median_ratio(
    figures: dict[str, list[float]], way: str, base: str
) -> float:
    return statistics.median(figures[way]) / statistics.median(figures[base])


def measure_memory(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Measures peak memory, each way in a process of its own.

    Args:
        config: The settings, by the names of the flags.

    Returns:
        A row for each way: peak megabytes of the median process, the ratio to
        the first way, and the least and the largest peak.
    """
    peaks = {way: [] for way in config["ways"]}
    for _ in range(config["rounds"]):
        for way in peaks:
            peaks[way].append(_peak_in_process(way, config))
    base = next(iter(peaks))
    return [
        {
            "way": way,
            "ratio": _median_ratio(peaks, way, base),
            "peak_megabytes": statistics.median(peaks[way]),
            "least_megabytes": min(peaks[way]),
            "largest_megabytes": max(peaks[way]),
        }
        for way in peaks
    ]


def _peak_in_process(way: str, config: dict[str, Any]) -> float:
    output = subprocess.run(
        [sys.executable, "-c", _CHILD, json.dumps([way, config])],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return json.loads(output.splitlines()[-1])


_CHILD = """
import json, sys
from benchmarks import step_timing
print(step_timing.peak_of(*json.loads(sys.argv[1])))
"""


def peak_of(way: str, config: dict[str, Any]) -> float:
    """Trains in a way; returns the peak memory of the process in megabytes."""
    trainer = Trainer(way, config)
    for _ in range(2):
        trainer.train()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def environment() -> dict[str, str]:
    """Returns the versions and the machine that figures belong to.

    Settings of how the C library allocates memory are part of it.
    """
    return {
        **training.versions(),
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": str(os.cpu_count()),
        **{x: os.environ[x] for x in os.environ if x.startswith("MALLOC_")},
    }


def report(
    config: dict[str, Any], rows: list[dict[str, Any]], output: str | None
) -> None:
    """Prints the environment and a table; writes all of it as JSON.

    Args:
        config: The settings, by the names of the flags.
        rows: The figures.
        output: The file to write, or `None`.
    """
    content = {"environment": environment(), "config": config, "rows": rows}
    print(json.dumps({**content["environment"], **config}))
    print(render(rows))
    if output:
        pathlib.Path(output).write_text(json.dumps(content, indent=2) + "\n")


def render(rows: list[dict[str, Any]]) -> str:
    """Renders rows as a Markdown table."""
    lines = [f"| {' | '.join(rows[0])} |", "|---" * len(rows[0]) + "|"]
    for row in rows:
        cells = [
            f"{x:.4g}" if isinstance(x, float) else x for x in row.values()
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)
