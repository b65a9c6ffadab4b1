"""Times the steps of peers, each in a process of its own environment."""

import contextlib
import json
import os
import pathlib
import subprocess
from typing import Any

import numpy as np
from absl import logging

from benchmarks import peer_environments

_ROOT = pathlib.Path(__file__).parent.parent
_OURS = ("fliqs_keras", "fixed INT8")


class Worker:
    """A process that trains rounds of one peer.

    Args:
        peer: One of `PEERS`.
        config: The folder of environments, the depth, batch and steps of a
            round, and whether XLA compiles.
    """

    def __init__(self, peer: str, config: dict[str, Any]):
        python = peer_environments.python_of(peer, config["environments"])
        self._process = subprocess.Popen(
            [
                python,
                "-m",
                "benchmarks.peer_worker",
                json.dumps({"peer": peer, **config}),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=_ROOT,
            env={
                **os.environ,
                "KERAS_BACKEND": "tensorflow",
                **peer_environments.PEERS[peer].variables,
            },
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def train(self, way: str) -> list[float] | str:
        """Trains a round; returns what a step took, or an error.

        In seconds, and in seconds of processor time.
        """
        try:
            print(json.dumps(way), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        return json.loads(answer) if answer else "The process ended."


def measure(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Times all ways of some peers in turns.

    In every round each way of each peer takes its turn, those of a peer after
    the float network of its environment.

    Args:
        config: `environments`, `peers`, `depth`, `batch`, `steps`, `rounds`,
            and `jit_compile`, whether XLA compiles a step.

    Returns:
        A row for each way: the median over the rounds of its step over the
        float step of the same round, in time and in processor time, which
        other work of the machine hardly moves, with the quartiles of that;
        and the median seconds of both; or the error it ended in.
    """
    jit_compile = config["jit_compile"]
    with contextlib.ExitStack() as stack:
        workers = {
            peer: stack.enter_context(Worker(peer, config))
            for peer in config["peers"]
        }
        turns = [
            (peer, way)
            for peer in workers
            for way in ("float", *peer_environments.PEERS[peer].ways)
        ]
        # The first round compiles; what fails then has no further turn.
        seconds, errors = {}, {}
        for peer, way in turns:
            first = workers[peer].train(way)
            if isinstance(first, str):
                errors[peer, way] = first
            else:
                seconds[peer, way] = []
        for number in range(config["rounds"]):
            for (peer, way), times in seconds.items():
                times.append(workers[peer].train(way))
            logging.info("Round %d of %d.", number + 1, config["rounds"])
    return [
        {
            "peer": peer,
            "way": way,
            "jit_compile": jit_compile,
            **_statistics(peer, way, seconds, errors),
        }
        for peer, way in turns
        if way != "float"
    ]


def _statistics(peer, way, seconds, errors) -> dict[str, Any]:
    for key in ((peer, "float"), (peer, way)):
        if key in errors:
            return {"error": errors[key]}
    steps, bases = (
        np.array(seconds[peer, way]),
        np.array(seconds[peer, "float"]),
    )
    ratios = steps / bases
    ratio, cpu_ratio = np.median(ratios, axis=0).tolist()
    step_seconds, step_cpu_seconds = np.median(steps, axis=0).tolist()
    base_seconds, base_cpu_seconds = np.median(bases, axis=0).tolist()
    return {
        "ratio": ratio,
        "cpu_ratio": cpu_ratio,
        "cpu_quartiles": np.quantile(ratios[:, 1], (0.25, 0.75)).tolist(),
        "step_seconds": step_seconds,
        "step_cpu_seconds": step_cpu_seconds,
        "float_step_seconds": base_seconds,
        "float_step_cpu_seconds": base_cpu_seconds,
    }


def render(rows: list[dict[str, Any]]) -> str:
    """Renders rows as a Markdown table, and says who is faster than we are."""
    ways = list(dict.fromkeys((row["peer"], row["way"]) for row in rows))
    cells = {(row["peer"], row["way"], row["jit_compile"]): row for row in rows}
    lines = [
        "| library | way | without XLA | with XLA | what it does |",
        "|---|---|---|---|---|",
    ]
    for peer, way in ways:
        texts = [_cell(cells.get((peer, way, jit))) for jit in (False, True)]
        does = peer_environments.PEERS[peer].does
        lines.append(f"| {peer} | {way} | {' | '.join(texts)} | {does} |")
    return "\n".join([*lines, "", *_faster(ways, cells)])


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "not timed"
    if "error" in row:
        return f"fails ({row['error'].split(':')[0]})"
    low, high = row["cpu_quartiles"]
    return f"{row['cpu_ratio']:.2f} ({low:.2f} to {high:.2f})"


def _faster(ways, cells) -> list[str]:
    lines = []
    for jit_compile, where in ((False, "Without XLA"), (True, "With XLA")):
        ours = cells.get((*_OURS, jit_compile), {}).get("cpu_ratio")
        if ours is None:
            continue
        faster = [
            f"{peer} ({way}), {ratio / ours:.2f} of its ratio"
            for peer, way in ways
            if peer != _OURS[0]
            and (ratio := cells[peer, way, jit_compile].get("cpu_ratio", ours))
            < ours
        ]
        lines.append(
            f"{where}, faster than our fixed INT8: "
            f"{'; '.join(faster) or 'none'}."
        )
    return lines
