"""What a network of the paper takes, and whether all of the way works."""

import math
import pathlib
import resource
import tempfile
import time
from typing import Any

import keras
import numpy as np

import fliqs_keras
from recipes import paper_models

# The formats of the columns of costs.
FORMATS = ("INT4", "INT8", "BF16")

# One would leave nothing to normalize where the last features are one pixel.
IMAGES = 4
# Of files, as a whole or layer by layer.
TOLERANCE = 1e-5


def measure_costs(
    name: str, input_shape: tuple[int, int, int] | None = None
) -> dict[str, Any]:
    """Returns what a network takes in uniform formats.

    Args:
        name: A name of `paper_models`.
        input_shape: Shape of the images. Defaults to that which the network
            is made for.

    Returns:
        Trainable parameters, decisions, multiplications and GBOPs.
    """
    float_model = paper_models.build(name, input_shape)
    model = fliqs_keras.apply(float_model, FORMATS)
    summary = fliqs_keras.summary(model)
    cost = fliqs_keras.BitOps()
    macs = {row.path: row.macs for row in summary.quantized}
    excited = sum(n for path, n in macs.items() if "_se_" in path)
    decisions = fliqs_keras.FormatAssignment.from_model(model)
    return {
        "image_size": model.input_shape[1],
        "parameters": sum(
            math.prod(w.shape) for w in float_model.trainable_weights
        ),
        "decisions": len(decisions),
        "gmacs": sum(macs.values()) / 1e9,
        "squeeze_excite_share": excited / sum(macs.values()),
        "gbops": {
            number_format: cost(model, dict.fromkeys(decisions, number_format))
            for number_format in FORMATS
        },
    }


def check(
    name: str, input_shape: tuple[int, int, int] | None = None
) -> dict[str, Any]:
    """Builds, quantizes, trains a step, exports and verifies a network.

    Its layers stand on INT4 and INT8 in turn. The step has a few images of
    noise, on which the file is then compared with Keras.

    Args:
        name: A name of `paper_models`.
        input_shape: Shape of the images. Defaults to that which the network
            is made for.

    Returns:
        The loss, the range of the outputs, what the export left in float, the
        size of the file, how far it is from Keras (layer by layer, too, where
        the outputs differ), the seconds of a CPU that all took, and the peak
        memory of the process in megabytes.
    """
    keras.utils.set_random_seed(0)
    float_model = paper_models.build(name, input_shape)
    seconds = {}
    start = time.process_time()
    model = fliqs_keras.apply(float_model, FORMATS)
    seconds["apply"] = time.process_time() - start
    decisions = fliqs_keras.FormatAssignment.from_model(model)
    fliqs_keras.FormatAssignment(
        {d: FORMATS[i % 2] for i, d in enumerate(decisions)}
    ).apply_to(model)
    shape = (IMAGES, *model.input_shape[1:])
    images = np.random.default_rng(0).random(shape).astype("float32")
    start = time.process_time()
    loss = _train_a_step(model, images)
    seconds["first step"] = time.process_time() - start
    # Untrained statistics would let values fade to zero, and all be the same.
    fliqs_keras.recalibrate_batch_norm(model, images)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.tflite"
        start = time.process_time()
        report = fliqs_keras.export_tflite(model, path)
        seconds["export"] = time.process_time() - start
        found = fliqs_keras.verify_export(
            model, path, images, tolerance=TOLERANCE
        )
    return {
        "loss": loss,
        "output_range": float(np.ptp(model(images, training=False))),
        "seconds": seconds,
        "peak_megabytes": _peak_megabytes(),
        "file_bytes": report.file_bytes,
        "left_in_float": [row.path for row in report.left_in_float],
        "agrees": found.agrees,
        "differences": {
            way: max(row.mean for row in rows)
            for way, rows in found.runs.items()
        },
        "layerwise": {
            way: {
                "outputs": max(row.mean for row in rows.outputs),
                "quantizers": max(rows.quantizers.values()),
            }
            for way, rows in found.layerwise.items()
        },
    }


def _train_a_step(model: keras.Model, images: np.ndarray) -> float:
    model.compile(
        optimizer=keras.optimizers.SGD(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # XLA compiles for minutes, for a single step.
        jit_compile=False,
    )
    return float(model.train_on_batch(images, np.arange(len(images))))


def _peak_megabytes() -> float:
    # Linux counts in kilobytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
