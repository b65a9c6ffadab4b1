"""Times what the callback of a search does at a step.

    python -m benchmarks.callback_time --decisions=300

Of a search by the paper's controller: the loss is read, the reward made, the
policy updated and sampled, and the formats are set, those of all weights and
inputs in one call. Prints a table and writes JSON.
"""

import statistics
import time
from typing import Any

import keras
import numpy as np
from absl import app, flags
from keras import layers

import fliqs_keras
from benchmarks import step_timing

_DECISIONS = flags.DEFINE_integer("decisions", 300, "Layers that decide.", 1)
_CALLBACK_STEPS = flags.DEFINE_integer("callback_steps", 100, "Steps.", 4)
_CALLBACK_OUTPUT = flags.DEFINE_string(
    "callback_output", None, "File of the JSON."
)


class TimedSearch(fliqs_keras.FormatSearch):
    """A search that times itself.

    Attributes:
        times: For each step wall and processor time of setting the formats
            before it, and of learning after it.
    """

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.times = {"set": [], "learn": []}

    def on_train_batch_begin(self, batch, logs=None):
        start = _now()
        super().on_train_batch_begin(batch, logs)
        self.times["set"].append(_now() - start)

    def on_train_batch_end(self, batch, logs=None):
        start = _now()
        super().on_train_batch_end(batch, logs)
        self.times["learn"].append(_now() - start)


def _now() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def measure(decisions: int, steps: int) -> list[dict[str, Any]]:
    """Returns rows of milliseconds: of setting, of learning, and of both."""
    x = features = keras.Input((1,))
    for _ in range(decisions):
        x = layers.Dense(1)(x)
    model = fliqs_keras.apply(
        keras.Model(features, x), ["INT2", "INT4", "INT8", "E2M1", "E4M3"]
    )
    model.compile("sgd", "mse", jit_compile=False)
    search = TimedSearch(
        ("INT4", 1.5),
        controller=fliqs_keras.Reinforce(delay=0.0, settle=0.0),
        activation_delay=0.0,
    )
    data = np.ones((steps, 1), "float32")
    model.fit(data, data, batch_size=1, verbose=0, callbacks=[search])
    # The first step traces.
    times = {k: np.array(v[1:]) * 1e3 for k, v in search.times.items()}
    times["both"] = times["set"] + times["learn"]
    return [
        {
            "part": part,
            "milliseconds": statistics.median(found[:, 0]),
            "cpu_milliseconds": statistics.median(found[:, 1]),
        }
        for part, found in times.items()
    ]


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only. Received: {argv[1:]}")
    config = {"decisions": _DECISIONS.value, "steps": _CALLBACK_STEPS.value}
    rows = measure(**config)
    step_timing.report(config, rows, _CALLBACK_OUTPUT.value)


if __name__ == "__main__":
    app.run(main)
