"""The private parts of Keras that injection needs, all in one place.

Everything else in the package uses the public API. A test exercises each
function here, so that a Keras release that moves one fails loudly.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras
from keras.src.backend import AutocastScope

Tensor = Any


class SubstituteScope(keras.StatelessScope):
    """A scope in which reads of some variables return given tensors.

    All other reads and every update go where they would go without it.

    Args:
        substitutes: Pairs of a variable and the tensor it reads as.
    """

    def __init__(
        self, substitutes: Iterable[tuple[keras.Variable, Tensor]]
    ) -> None:
        super().__init__(collect_losses=True)
        self._substitutes = {id(v): tensor for v, tensor in substitutes}

    def get_current_value(self, variable):
        value = self._substitutes.get(id(variable))
        if value is None and self.original_scope is not None:
            return self.original_scope.get_current_value(variable)
        return value

    def add_update(self, update):
        if self.original_scope is not None:
            self.original_scope.add_update(update)
        else:
            variable, value = update
            variable._direct_assign(value)


def master_value(variable: keras.Variable) -> Tensor:
    """Returns a variable's value in its own dtype, under any dtype policy."""
    with AutocastScope(None):
        return keras.ops.convert_to_tensor(variable.value)


@contextlib.contextmanager
def unlocked(layer: keras.layers.Layer) -> Iterator[None]:
    """Lets sublayers be added to a layer that is built already."""
    layer._tracker.unlock()
    try:
        yield
    finally:
        layer._tracker.lock()


def sublayers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns the direct sublayers of a layer or model, in their order."""
    return list(layer._layers)


def flatten_layers(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Yields a layer and all its sublayers, at every depth."""
    yield layer
    for sublayer in sublayers(layer):
        yield from flatten_layers(sublayer)


def zero_example(model: keras.Model) -> Any:
    """Returns a batch of one example of zeros, in the structure of the inputs.

    Raises:
        ValueError: If the model does not know the shapes of its inputs.
    """

    def zeros(tensor):
        shape = (1, *tensor.shape[1:])
        if None in shape:
            raise ValueError(
                f"Expected model {model.name!r} to have inputs of known shape "
                "but for the batch. Received: an input of shape "
                f"{tensor.shape}. Build the model with a fixed input shape"
            )
        return keras.ops.zeros(shape, tensor.dtype)

    # `Sequential.input` needs a call; `Functional.inputs` has no structure.
    is_sequential = isinstance(model, keras.Sequential)
    inputs = model.inputs[0] if is_sequential else model.input
    return keras.tree.map_structure(zeros, inputs)
