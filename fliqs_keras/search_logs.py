"""The log of a search: JSON lines, and scalars for TensorBoard."""

import importlib.util
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import logging

from fliqs_keras.formats import Format
from fliqs_keras.options import parse_option, width_of

__all__ = ["read_search_log"]

Record = Mapping[str, Any]

_FILE = "search.jsonl"
# What `tf.summary` names its files.
_EVENTS = "events.out.tfevents.*.v2"
# Of a record, what is one number a step.
_SCALARS = ("loss", "cost", "entropy", "reward", "baseline")


class SearchLog:
    """Writes records of a search to a folder, each as soon as it comes.

    `search.jsonl` gets a line a record. Where the package `tensorboard` is
    installed, the folder gets event files with the tags

    - `search/loss`, `search/cost`, `search/entropy`, `search/reward` and
      `search/baseline`, those that the controller has;
    - `probability/<decision>/<format>`, of a controller with a policy, and a
      histogram `probabilities/<format>` over the decisions;
    - `sample/<decision>`, the bits of the format that the step trained in, or
      the size, and a histogram `sample/bits` over the decisions on formats.

    Args:
        folder: The folder; it is made. An earlier `search.jsonl` in it is
            replaced, and so are the event files beside it.
    """

    def __init__(self, folder: str | os.PathLike):
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / _FILE).exists():
            # TensorBoard would show both runs as one.
            for path in folder.glob(_EVENTS):
                path.unlink()
        # A line at a time, so that a reader of a running search sees whole
        # lines.
        self._file = (folder / _FILE).open("w", buffering=1)
        self._board = _event_writer(folder)

    def write(self, record: Record) -> None:
        """Writes the record of a step."""
        self._file.write(json.dumps(record) + "\n")
        if self._board is not None:
            self._write_events(record)

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()

    def _write_events(self, record: Record) -> None:
        import tensorflow as tf

        step = record["step"]
        with self._board.as_default():
            for name in _SCALARS:
                if name in record:
                    tf.summary.scalar(f"search/{name}", record[name], step)
            bits = []
            for decision, value in record["formats"].items():
                option = parse_option(value)
                width = width_of(option)
                tf.summary.scalar(f"sample/{decision}", width, step)
                if isinstance(option, Format):
                    bits.append(width)
            tf.summary.histogram("sample/bits", bits, step)
            by_format: dict[str, list[float]] = {}
            for decision, row in record.get("probabilities", {}).items():
                for name, probability in row.items():
                    tag = f"probability/{decision}/{name}"
                    tf.summary.scalar(tag, probability, step)
                    by_format.setdefault(name, []).append(probability)
            for name, values in by_format.items():
                tf.summary.histogram(f"probabilities/{name}", values, step)


def read_search_log(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads the log that `FormatSearch(log_dir=...)` writes.

    Args:
        path: The folder of the log, or its `search.jsonl`. The search may
            still be running.

    Returns:
        A dictionary for each logged step: `step`, from 0; `phase`, what the
        controller was doing (`"supernet"`, `"widest"`, `"delay"`, `"search"` or
        `"settled"`); `loss` of the batch; `cost` of its formats and `target`;
        `formats`, from decision to the name of the format that the step
        trained in, or to a size; and, where the controller has them,
        `entropy`, `reward`, `baseline` and `probabilities`, from decision to
        format to probability, from which the formats were sampled.

    Raises:
        ValueError: If there is no log, or it holds anything else.

    Example:

    >>> records = fliqs_keras.read_search_log("runs/digits")
    >>> records[-1]["cost"]
    """
    path = pathlib.Path(path)
    path = path / _FILE if path.is_dir() else path
    if not path.is_file():
        raise ValueError(
            f"Expected the log of a search. Received: {str(path)!r}, which is "
            "not a file. `FormatSearch(log_dir=...)` writes one"
        )
    records = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
        is_record = isinstance(record, dict)
        if not is_record or not {"step", "formats"} <= set(record):
            raise ValueError(
                "Expected a line of a search's log, a JSON object with `step` "
                f"and `formats`. Received: line {number} of {str(path)!r}"
            )
        records.append(record)
    return records


def _event_writer(folder: pathlib.Path):
    """Returns a writer of event files, or `None` without TensorBoard."""
    if importlib.util.find_spec("tensorboard") is None:
        logging.info(
            "No event files for TensorBoard: it is not installed. "
            "`pip install tensorboard` brings it."
        )
        return None
    import tensorflow as tf

    return tf.summary.create_file_writer(str(folder))
