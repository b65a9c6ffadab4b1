"""Measures the ops of a network for a `LatencyTable`, on one thread.

    python -m recipes.measure_latency --network=separable_net --check=20

Writes one small file for each op shape and format, times them in turns, and
writes the table as JSON. Times that the table holds already are kept, so that
a table can serve several networks. With `--check`, random assignments of the
whole network are exported and timed, too, beside what the table predicts.

On a phone, time the files of `--folder` with LiteRT's `benchmark_model` and
write the same JSON.
"""

import json
import pathlib
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from absl import flags
from ai_edge_litert.interpreter import Interpreter
from scipy import stats

import fliqs_keras
from recipes import command_line, latency_flags, models, network_flags

_FORMATS = flags.DEFINE_list(
    "op_formats", ["INT4", "INT8", "E4M3", "FP16"], "Formats to choose from."
)
_STORAGE = flags.DEFINE_enum(
    "weight_storage", "compact", ["compact", "fast"], "As for export_tflite."
)
_CHECK = flags.DEFINE_integer("check", 0, "Assignments to check with.", 0)
_SEED = flags.DEFINE_integer(
    "assignment_seed", 0, "Seed of these assignments.", 0
)
_FOLDER = flags.DEFINE_string("folder", "latency", "Folder of the files.")
_TABLE = flags.DEFINE_string("table", "latency.json", "The table to write.")


def build(name: str, size: int, formats: Sequence[str]) -> keras.Model:
    """Returns a quantized, calibrated network with random weights."""
    keras.utils.set_random_seed(0)
    model = models.build(name, (size, size, 1), 10)
    model = fliqs_keras.apply(model, formats)
    images = np.random.default_rng(0).normal(size=(8, size, size, 1))
    fliqs_keras.calibrate(model, images.astype("float32"))
    return model


def measure(paths: Mapping[str, pathlib.Path], rounds: int) -> dict[str, float]:
    """Returns the median time of each file, in milliseconds.

    The files take turns, so that whatever else the machine does meets all of
    them.

    Args:
        paths: The files, by name.
        rounds: How often each of them runs.
    """
    interpreters = {}
    for name, path in paths.items():
        interpreter = Interpreter(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
        interpreter.invoke()
        interpreters[name] = interpreter
    times = {name: [] for name in paths}
    for _ in range(rounds):
        for name, interpreter in interpreters.items():
            start = time.perf_counter()
            interpreter.invoke()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(np.median(t)) for name, t in times.items()}


def measure_ops(
    model: keras.Model,
    folder: pathlib.Path,
    table: pathlib.Path,
    rounds: int,
    weight_storage: str,
) -> None:
    """Adds the ops of a model to a table.

    Args:
        model: A model from `fliqs_keras.apply`.
        folder: Folder for the files of the ops.
        table: The JSON file.
        rounds: How often each file runs.
        weight_storage: As for `fliqs_keras.export_tflite`.
    """
    content: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "weight_storage": weight_storage,
        "milliseconds": {},
    }
    if table.exists():
        content = json.loads(table.read_text())
    # It need not say so.
    if content.setdefault("weight_storage", weight_storage) != weight_storage:
        raise ValueError(
            f"Expected a table of {weight_storage!r} storage in {table}. "
            f"Received: one of {content['weight_storage']!r}. Choose another "
            "--table and --folder"
        )
    known = content["milliseconds"]
    paths = fliqs_keras.export_ops(model, folder, weight_storage)
    new = {name: path for name, path in paths.items() if name not in known}
    known.update(measure(new, rounds))
    table.write_text(json.dumps(content, indent=2) + "\n")


def check(
    model: keras.Model,
    formats: Sequence[str],
    folder: pathlib.Path,
    table: pathlib.Path,
    count: int,
    rounds: int,
    weight_storage: str,
    seed: int = 0,
) -> list[tuple[float, float]]:
    """Returns predicted and measured milliseconds of random assignments.

    Args:
        model: A model whose ops are in the table.
        formats: The formats to choose from.
        folder: Folder for the files.
        table: The JSON file.
        count: Number of assignments.
        rounds: How often each file runs.
        weight_storage: As for `fliqs_keras.export_tflite`.
        seed: Seed of the assignments.
    """
    cost = fliqs_keras.LatencyTable(table)
    decisions = fliqs_keras.FormatAssignment.from_model(model)
    generator = np.random.default_rng(seed)
    signature = keras.InputSpec("float32", shape=(1, *model.input_shape[1:]))
    predicted, paths = {}, {}
    for number in range(count):
        chosen = {name: str(generator.choice(formats)) for name in decisions}
        assignment = fliqs_keras.FormatAssignment(chosen)
        assignment.apply_to(model)
        predicted[number] = cost(model)
        paths[number] = folder / f"whole-{number}.tflite"
        fliqs_keras.export_tflite(
            model,
            paths[number],
            input_signature=signature,
            weight_storage=weight_storage,
            strip_names=True,
        )
    measured = measure(paths, rounds)
    return [(predicted[number], measured[number]) for number in paths]


def main(_):
    folder, table = pathlib.Path(_FOLDER.value), pathlib.Path(_TABLE.value)
    model = build(
        network_flags.NETWORK.value, latency_flags.SIZE.value, _FORMATS.value
    )
    measure_ops(
        model, folder, table, latency_flags.ROUNDS.value, _STORAGE.value
    )
    if not _CHECK.value:
        return
    pairs = check(
        model,
        _FORMATS.value,
        folder,
        table,
        _CHECK.value,
        latency_flags.ROUNDS.value,
        _STORAGE.value,
        _SEED.value,
    )
    print("| predicted, ms | measured, ms |\n|---|---|")
    for predicted, measured in sorted(pairs):
        print(f"| {predicted:.4f} | {measured:.4f} |")
    correlation = stats.spearmanr(*zip(*pairs, strict=True)).statistic
    print(f"\nSpearman rank correlation: {correlation:.3f}")


if __name__ == "__main__":
    command_line.run(main)
