"""Times exported files of MobileNetV2 beside the float file, on one thread.

    python -m recipes.export_latency

The files take turns, so that whatever else the machine does meets all of
them; the fastest of each file's runs counts. With ai-edge-quantizer installed,
its 8-bit file of the same float network is timed, too.
"""

import importlib.util
import pathlib
import tempfile
import time

import keras
import numpy as np
from absl import flags
from ai_edge_litert.interpreter import Interpreter

import fliqs_keras
from recipes import command_line, latency_flags

_ALPHA = flags.DEFINE_float("alpha", 1.0, "Width of the network.")


def export_files(
    folder: pathlib.Path, size: int, alpha: float
) -> dict[str, pathlib.Path]:
    """Exports the files to time.

    Args:
        folder: Folder for the files.
        size: Height and width of the images.
        alpha: Width of the network.

    Returns:
        The paths of the files by what they are; the float file comes first.
    """
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(
        (size, size, 3), alpha, weights=None, classifier_activation=None
    )
    images = np.random.default_rng(0).normal(size=(8, size, size, 3))
    images = images.astype("float32")
    paths = {"float": folder / "float.tflite"}
    signature = [keras.InputSpec("float32", shape=(1, size, size, 3))]
    model.export(
        str(paths["float"]),
        format="litert",
        input_signature=signature,
        verbose=False,
    )
    if importlib.util.find_spec("ai_edge_quantizer") is not None:
        paths["ai-edge-quantizer INT8"] = folder / "aeq.tflite"
        paths["ai-edge-quantizer INT8"].write_bytes(
            _quantize_by_calibration(paths["float"], images)
        )
    for format_name in ("INT8", "INT4"):
        quantized = fliqs_keras.apply(model, format_name)
        fliqs_keras.calibrate(quantized, images)
        for storage in ("compact", "fast"):
            name = f"{format_name}, {storage}"
            paths[name] = folder / f"{len(paths)}.tflite"
            _export(quantized, paths[name], size, weight_storage=storage)
    quantized = fliqs_keras.apply(model, "INT8", every_tensor="INT8")
    fliqs_keras.calibrate(quantized, images)
    paths["INT8, integer"] = folder / "integer.tflite"
    report = _export(quantized, paths["INT8, integer"], size, mode="integer")
    if any(row.kernel != "integer" for row in report.layers):
        raise RuntimeError(
            f"Expected integer kernels only. Received:\n{report}"
        )
    return paths


def _export(model, path, size, **options) -> fliqs_keras.ExportReport:
    signature = keras.InputSpec("float32", shape=(1, size, size, 3))
    return fliqs_keras.export_tflite(
        model, path, input_signature=signature, strip_names=True, **options
    )


def _quantize_by_calibration(path: pathlib.Path, images: np.ndarray) -> bytes:
    from ai_edge_quantizer import quantizer, recipe

    quantizing = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
    runner = Interpreter(model_path=str(path)).get_signature_runner()
    (name,) = runner.get_input_details()
    data = {"serving_default": [{name: image[None]} for image in images]}
    return quantizing.quantize(quantizing.calibrate(data)).quantized_model


def measure(paths: dict[str, pathlib.Path], rounds: int) -> dict[str, float]:
    """Returns the shortest time of each file, in seconds.

    Args:
        paths: The files.
        rounds: How often each of them runs.
    """
    interpreters = {}
    for name, path in paths.items():
        interpreter = Interpreter(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
        interpreters[name] = interpreter
    shortest = dict.fromkeys(paths, float("inf"))
    for _ in range(rounds):
        for name, interpreter in interpreters.items():
            start = time.perf_counter()
            interpreter.invoke()
            elapsed = time.perf_counter() - start
            shortest[name] = min(shortest[name], elapsed)
    return shortest


def main(_):
    with tempfile.TemporaryDirectory() as folder:
        paths = export_files(
            pathlib.Path(folder), latency_flags.SIZE.value, _ALPHA.value
        )
        seconds = measure(paths, latency_flags.ROUNDS.value)
        print("| file | time, float = 1 | bytes |\n|---|---|---|")
        for name, path in paths.items():
            ratio = seconds[name] / seconds["float"]
            print(f"| {name} | {ratio:.2f} | {path.stat().st_size:,} |")


if __name__ == "__main__":
    command_line.run(main)
