"""The private parts of Keras that injection needs, all in one place.

Everything else in the package uses the public API. A test exercises each
function here, so that a Keras release that moves one fails loudly.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras.src.backend import AutocastScope, compute_output_spec
from keras.src.backend.common.symbolic_scope import in_symbolic_scope
from keras.src.models.functional import (
    Functional,
    functional_like_constructor,
)

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


class UpdateScope(SubstituteScope):
    """A scope in which updates of some variables are noted, not made.

    Args:
        variables: The variables.
        substitutes: As of `SubstituteScope`.

    Attributes:
        updates: What each variable would be set to, in order, by its `id`.
    """

    def __init__(
        self,
        variables: Iterable[keras.Variable],
        substitutes: Iterable[tuple[keras.Variable, Tensor]] = (),
    ) -> None:
        super().__init__(substitutes)
        self.updates: dict[int, list[Tensor]] = {id(v): [] for v in variables}

    def add_update(self, update):
        variable, value = update
        if id(variable) in self.updates:
            self.updates[id(variable)].append(value)
        else:
            super().add_update(update)


class ReadingScope(SubstituteScope):
    """A scope that notes which variables are read, but for inner scopes.

    Attributes:
        read: The `id` of each.
    """

    def __init__(self) -> None:
        super().__init__(())
        self.read: set[int] = set()

    def get_current_value(self, variable):
        self.read.add(id(variable))
        return super().get_current_value(variable)


def master_value(variable: keras.Variable) -> Tensor:
    """Returns a variable's value in its own dtype, under any dtype policy."""
    with AutocastScope(None):
        return keras.ops.convert_to_tensor(variable.value)


def stored_value(variable: keras.Variable) -> np.ndarray | None:
    """Returns what a variable holds now, also while a function is traced.

    Returns `None` where it holds nothing: while Keras only works out shapes,
    and in `fit`, `evaluate` and `predict` on JAX, which take it out.
    """
    value = None if in_symbolic_scope() else variable._value
    if value is None:
        return None
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.init_scope():
            return value.numpy()
    return np.asarray(value)


def loss_tracker(model: keras.Model) -> keras.metrics.Mean | None:
    """Returns the metric in which Keras's own `train_step` tracks the loss.

    It weighs the loss of each batch by the number of its examples.
    """
    return model._loss_tracker


def holds_layers_openly(layer: keras.layers.Layer) -> bool:
    """Whether the config of a layer is made of those of its sublayers."""
    return type(layer) in (keras.Sequential, Functional)


def has_graph(layer: keras.layers.Layer) -> bool:
    """Whether it is a model that runs a graph of layers.

    It is functional or sequential. Its class may be one of its own, as for
    another `train_step`, unless that has another `call`.
    """
    return type(layer).call in (Functional.call, keras.Sequential.call)


def is_made_of_layers(model: keras.Model) -> bool:
    """Whether a model with a graph is made by its layers alone.

    A constructor of its own may take what the layers do not say.
    """
    if isinstance(model, keras.Sequential):
        return type(model).__init__ is keras.Sequential.__init__
    return functional_like_constructor(type(model))


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


def own_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Returns the weights that a layer holds itself, not in a sublayer."""
    others = {
        id(weight)
        for sublayer in sublayers(layer)
        for weight in sublayer.weights
    }
    return [weight for weight in layer.weights if id(weight) not in others]


def recurrent_states(model: keras.Model) -> list[keras.Variable]:
    """Returns what stateful layers keep from batch to batch, no weights."""
    return [
        state
        for layer in flatten_layers(model)
        if isinstance(layer, keras.layers.RNN) and layer.stateful
        for state in keras.tree.flatten(layer.states or [])
    ]


class GraphCall(NamedTuple):
    """One call in the graph of a functional model.

    Attributes:
        operation: The layer, or an operation that is none.
        inputs: Numbers of the tensors that it reads.
        first_argument: Of those the tensors in its first argument.
        outputs: Numbers of the tensors that it makes.
        shapes: Their shapes.
        are_floats: Whether they hold floats.
    """

    operation: keras.Operation
    inputs: tuple[int, ...]
    first_argument: tuple[int, ...]
    outputs: tuple[int, ...]
    shapes: tuple[tuple[int | None, ...], ...]
    are_floats: tuple[bool, ...]


def graph_calls(
    model: keras.Model,
) -> tuple[list[GraphCall], set[int]] | None:
    """Returns the calls in the graph of a model, in order.

    Models that stand in it as layers, and have a graph, are taken apart.

    Args:
        model: The model.

    Returns:
        The calls, and the numbers of the tensors that the model returns; or
        `None` if it has no graph.
    """
    if not has_graph(model):
        return None
    reader = _GraphReader()
    inputs = [next(reader.numbers) for _ in model.inputs]
    return reader.calls, set(reader.read_model(model, inputs))


class _GraphReader:
    """Reads graphs, one within the other.

    The tensors of a model that is called twice get new numbers each time.
    """

    def __init__(self):
        self.calls: list[GraphCall] = []
        self.numbers = itertools.count()
        self._known: dict[int, int] = {}

    def read_model(
        self, model: keras.Model, inputs: Iterable[int]
    ) -> list[int]:
        """Reads a model on given tensors; returns those that it returns."""
        is_sequential = isinstance(model, keras.Sequential)
        graph = model._functional if is_sequential else model
        self._set(graph.inputs, inputs)
        for depth in sorted(graph._nodes_by_depth, reverse=True):
            for node in graph._nodes_by_depth[depth]:
                if not node.is_input:
                    self._read_node(node)
        return self._get(graph.outputs)

    def _read_node(self, node: Any) -> None:
        inputs = self._get(node.input_tensors)
        if has_graph(node.operation):
            outputs = self.read_model(node.operation, inputs)
        else:
            outputs = [next(self.numbers) for _ in node.outputs]
            args = node.arguments
            first = next(iter([*args.args, *args.kwargs.values()]))
            first = [
                x for x in keras.tree.flatten(first) if id(x) in self._known
            ]
            self.calls.append(
                GraphCall(
                    node.operation,
                    tuple(inputs),
                    tuple(self._get(first)),
                    tuple(outputs),
                    tuple(x.shape for x in node.outputs),
                    tuple(
                        keras.backend.is_float_dtype(x.dtype)
                        for x in node.outputs
                    ),
                )
            )
        self._set(node.outputs, outputs)

    def _get(self, tensors: Iterable[Any]) -> list[int]:
        return [self._known[id(tensor)] for tensor in tensors]

    def _set(self, tensors: Iterable[Any], numbers: Iterable[int]) -> None:
        for tensor, number in zip(tensors, numbers, strict=True):
            self._known[id(tensor)] = number


class UnknownShapeError(ValueError):
    """A model does not know the shapes of its inputs."""


def call_on_zeros(model: keras.Model) -> Any:
    """Calls a model, in inference, on zeros: one example, or a fixed batch.

    The states of recurrent layers stay as they are.

    Raises:
        UnknownShapeError: If the model does not know the shapes of its inputs.
    """
    states = [
        (state, keras.ops.convert_to_numpy(state))
        for state in recurrent_states(model)
    ]
    try:
        return _call_on_zeros(model)
    finally:
        for state, value in states:
            state.assign(value)


def _call_on_zeros(model: keras.Model) -> Any:
    args, kwargs = _examples(model, keras.ops.zeros)
    if isinstance(model, Functional | keras.Sequential):
        kwargs["training"] = False
    return model(*args, **kwargs)


def batch_of_zeros(model: keras.Model) -> int:
    """Returns how many examples `call_on_zeros` calls a model on."""
    examples = _examples(model, keras.KerasTensor)
    return keras.tree.flatten(examples)[0].shape[0]


def count_updates(
    model: keras.Model, variables: Sequence[keras.Variable]
) -> list[int]:
    """Returns how often a call in training updates each variable.

    The call is traced, not computed: what stands in a loop of the backend
    counts once.

    Raises:
        UnknownShapeError: If the model does not know the shapes of its inputs.
    """
    counts = []

    def call(*args, **kwargs):
        with UpdateScope(variables) as scope:
            model(*args, **kwargs, training=True)
        counts[:] = [len(scope.updates[id(v)]) for v in variables]

    args, kwargs = _examples(model, keras.KerasTensor)
    compute_output_spec(call, *args, **kwargs)
    return counts


def _examples(
    model: keras.Model, make: Callable[[tuple[int, ...], str], Tensor]
) -> tuple[tuple, dict[str, Any]]:
    """Returns arguments to call a model with, of tensors that `make` makes."""

    def of_shape(shape, dtype="float32"):
        return make(_known_shape(model, shape), dtype)

    def of_shapes(shapes):
        # Of the batch that the model was called with, the size is arbitrary.
        return keras.tree.map_shape_structure(
            lambda shape: of_shape((None, *shape[1:])), shapes
        )

    if isinstance(model, Functional | keras.Sequential):
        # `Sequential.input` needs a call; `inputs` has no structure.
        is_sequential = isinstance(model, keras.Sequential)
        inputs = model.inputs[0] if is_sequential else model.input
        return (
            keras.tree.map_structure(
                lambda x: of_shape(x.shape, x.dtype), inputs
            ),
        ), {}
    shapes = model.get_build_config() or {}
    if "input_shape" in shapes:
        return (of_shapes(shapes["input_shape"]),), {}
    if "shapes_dict" in shapes:
        return (), {
            name.removesuffix("_shape"): of_shapes(shape)
            for name, shape in shapes["shapes_dict"].items()
        }
    raise UnknownShapeError(
        f"Expected model {model.name!r} to know the shapes of its inputs. "
        "Received: a model without them. Call it on a batch of data first"
    )


def _known_shape(
    model: keras.Model, shape: tuple[int | None, ...]
) -> tuple[int, ...]:
    shape = (shape[0] or 1, *shape[1:])
    if None in shape:
        raise UnknownShapeError(
            f"Expected model {model.name!r} to have inputs of known shape "
            f"but for the batch. Received: an input of shape {shape}. Build "
            "the model with a fixed input shape"
        )
    return shape
