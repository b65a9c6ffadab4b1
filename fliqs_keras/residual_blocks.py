"""The residual block that a sum ends: its branch and its shortcut."""

from collections.abc import Sequence
from typing import NamedTuple

import keras

from fliqs_keras import _keras


class ResidualBlock(NamedTuple):
    """A block whose output is its input plus what its branch makes of it.

    Attributes:
        branch: Which input of the sum comes from the branch.
        layers: The layers that only the branch uses.
        shared: The layers that the branch shares with the rest of the model.
    """

    branch: int
    layers: tuple[keras.Layer, ...]
    shared: tuple[keras.Layer, ...]


def find_residual_block(
    calls: Sequence[_keras.GraphCall], returned: set[int], add: keras.Layer
) -> ResidualBlock | str:
    """Finds the residual block that an `Add` layer ends.

    Args:
        calls: The calls of the graph, in order.
        returned: The tensors that the model returns.
        add: The layer.

    Returns:
        The block, or what the layer is instead.
    """
    ends = [call for call in calls if call.operation is add]
    if len(ends) != 1:
        return f"which is called {len(ends)} times"
    (end,) = ends
    if len(end.inputs) != 2:
        return f"which adds {len(end.inputs)} tensors, not two"
    behind = [_ancestors(calls, tensor) for tensor in end.inputs]
    for branch, shortcut in ((0, 1), (1, 0)):
        if end.inputs[shortcut] in behind[branch]:
            break
    else:
        return "of which no input is computed from the other"
    made_in_branch = (
        behind[branch] - behind[shortcut] - {end.inputs[shortcut]}
    ) | {end.inputs[branch]}
    if made_in_branch & returned:
        return "of whose branch the model returns a tensor"
    inside = [c for c in calls if made_in_branch & set(c.outputs)]
    for call in calls:
        reads_branch = made_in_branch & set(call.inputs)
        if reads_branch and call is not end and call not in inside:
            return (
                "whose branch is read by another layer, "
                f"{call.operation.name!r}"
            )
    outside = {id(c.operation) for c in calls if c not in inside}
    used = [c.operation for c in inside]
    return ResidualBlock(
        branch,
        tuple(x for x in used if id(x) not in outside),
        tuple(x for x in used if id(x) in outside),
    )


def _ancestors(calls: Sequence[_keras.GraphCall], tensor: int) -> set[int]:
    """Returns the tensors that a tensor is computed from."""
    found: set[int] = set()
    wanted = {tensor}
    for call in reversed(calls):
        if wanted & set(call.outputs):
            wanted |= set(call.inputs)
            found |= set(call.inputs)
    return found
