"""Examples in batches, for files that are called by the names of inputs."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

__all__ = ["fill_up", "run_in_batches"]

Arrays = Mapping[str, np.ndarray]


def run_in_batches(
    run: Callable[[Arrays], Arrays],
    names: Collection[str],
    inputs: np.ndarray | Arrays,
    batch_size: int,
    fixed_batch_size: int | None = None,
) -> Any:
    """Runs a file on examples.

    Args:
        run: Runs it on one batch; takes and returns arrays by name.
        names: Names of the inputs.
        inputs: Examples, the batch first; a dictionary by the names of the
            inputs if there are several.
        batch_size: Examples in one call, at most.
        fixed_batch_size: That of the file, if it takes no other.

    Returns:
        The output, the batch first; a dictionary by name if there are
        several.

    Raises:
        ValueError: If the inputs have other names, or if there are no
            examples.
    """
    if not isinstance(inputs, Mapping) and len(names) == 1:
        inputs = {name: inputs for name in names}
    if not isinstance(inputs, Mapping) or set(inputs) != set(names):
        raise ValueError(
            f"Expected arrays for the inputs {sorted(names)} of the file. "
            f"Received: {_describe(inputs)}"
        )
    count = len(next(iter(inputs.values())))
    if not count:
        raise ValueError("Expected at least one example. Received: none")
    size = fixed_batch_size or min(batch_size, count)
    batches = [
        run(
            {
                name: fill_up(np.asarray(x[start : start + size]), size)
                for name, x in inputs.items()
            }
        )
        for start in range(0, count, size)
    ]
    outputs = {
        name: np.concatenate([batch[name] for batch in batches])[:count]
        for name in batches[0]
    }
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs


def _describe(inputs: np.ndarray | Arrays) -> str:
    if isinstance(inputs, Mapping):
        return f"arrays for {sorted(inputs)}"
    return f"one array of shape {np.shape(inputs)}"


def fill_up(batch: np.ndarray, size: int) -> np.ndarray:
    """Repeats the last example, so that no other shape is compiled for."""
    missing = size - len(batch)
    if not missing:
        return batch
    return np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
