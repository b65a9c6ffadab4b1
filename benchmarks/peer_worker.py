"""Trains rounds on request, in the environment of one peer.

    python -m benchmarks.peer_worker '{"peer": "keras", ...}'

Reads ways to train, in JSON, a line each; answers a line each with the median
step of a round, in seconds and in seconds of processor time, or with the error
that the way ends in. Started by `benchmarks.peers`.
"""

import json
import os
import sys
import time
from typing import Any

import numpy as np

from benchmarks import peer_networks


class PeerTrainer:
    """Trains a peer's network, a round at a time.

    Args:
        way: `"float"`, or a way of the peer.
        config: The peer, the depth, batch and steps of a round, and whether XLA
            compiles.
    """

    def __init__(self, way: str, config: dict[str, Any]):
        model = peer_networks.build(
            config["peer"], config["depth"], way != "float"
        )
        library = sys.modules["tensorflow"].keras
        model.compile(
            library.optimizers.SGD(1e-3, momentum=0.9),
            library.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=config["jit_compile"],
        )
        self._ends: list[tuple[float, float]] = []
        # A callback of the peer's own Keras.
        self._timer = library.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: self._ends.append(
                (time.perf_counter(), time.process_time())
            )
        )
        rng = np.random.default_rng(0)
        batch = config["batch"]
        count = config["steps"] * batch
        self._x = rng.normal(size=(count, 32, 32, 3)).astype("float32")
        self._y = rng.integers(0, 10, count)
        self._model = model
        self._batch = batch

    def train(self) -> tuple[float, float]:
        """Trains a round; returns what its median step took."""
        self._ends.clear()
        self._model.fit(
            self._x,
            self._y,
            batch_size=self._batch,
            verbose=0,
            callbacks=[self._timer],
        )
        seconds, cpu_seconds = np.median(np.diff(self._ends, axis=0), axis=0)
        return float(seconds), float(cpu_seconds)


class OurTrainer:
    """Trains as `benchmarks.step_time` does, a round at a time."""

    def __init__(self, way: str, config: dict[str, Any]):
        from benchmarks import step_timing

        self._trainer = step_timing.Trainer(way, {**config, "network": "chain"})

    def train(self) -> tuple[float, float]:
        """Trains a round; returns what its median step took."""
        timer = self._trainer.train()
        return tuple(
            float(np.median(times))
            for times in (timer.seconds, timer.cpu_seconds)
        )


def main() -> None:
    """Answers requests until there are no more."""
    config = json.loads(sys.argv[1])
    # What libraries print must not end up between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    trainers = {}
    for line in sys.stdin:
        way = json.loads(line)
        try:
            if way not in trainers:
                is_ours = config["peer"] == "fliqs_keras"
                kind = OurTrainer if is_ours else PeerTrainer
                trainers[way] = kind(way, config)
            answer = trainers[way].train()
        # Whatever ends a peer's step is what the table has to say.
        except Exception as error:  # noqa: BLE001
            text = str(error).strip().splitlines() or [""]
            answer = f"{type(error).__name__}: {text[0][:200]}"
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
