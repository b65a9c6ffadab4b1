"""The losses of formats on fixed data, by forward passes."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from fliqs_keras import _keras
from fliqs_keras.assignments import FormatSetter
from fliqs_keras.calibration import FixedThresholds
from fliqs_keras.quantized_layers import use_hook

_BATCH_SIZE = 64

# All are kept on the device. A few hundred tell formats apart; without a bound
# a long training on large images would keep tens of GB of them.
_MAX_EXAMPLES = 4096


class LossProbe:
    """Measures what a model loses in given formats, always on the same data.

    The model runs as in training, with the batch-normalization statistics of
    the batch, because those that it averages lag behind a model that trains
    fast, and belong to the formats that it trained in. It is left as it was:
    no weight, statistic, threshold, metric, format, random or recurrent state
    moves. Every choice sees the same examples, the same dropout and the same
    states, so that a few hundred examples tell small differences apart.

    Args:
        model: A compiled model from `fliqs_keras.apply`.
        set_formats: Sets the formats of the model.
        data: A pair of arrays `(inputs, targets)`, a triple with sample
            weights, which may be `None`, or an iterable of such batches, as
            a `tf.data.Dataset`, which may be endless: no more is read than is
            used, and of 4096 examples at most.

    Raises:
        ValueError: If the data has no batch, or no targets.
    """

    def __init__(
        self, model: keras.Model, set_formats: FormatSetter, data: Any
    ):
        self._model = model
        self._set_formats = set_formats
        self._unread = _batches(data)
        self._batches = [_first(self._unread, data)]
        self._losses = self._example_losses
        is_traced = not model.run_eagerly
        if keras.backend.backend() == "tensorflow" and is_traced:
            import tensorflow as tf

            # Not compiled by XLA, which takes longer than all the probes.
            self._losses = tf.function(self._example_losses, autograph=False)

    @property
    def batch_size(self) -> int:
        """Number of examples in the first batch."""
        return _size_of(self._batches[0])

    def __call__(
        self, choices: Sequence[np.ndarray], max_examples: float
    ) -> np.ndarray:
        """Measures choices.

        Args:
            choices: Positions of a format for each decision.
            max_examples: How many examples to use at most, never more than
                4096; one batch is used whatever its size.

        Returns:
            The losses, a row a choice and a column an example. For models
            whose loss takes no sample weights, or is one number for a whole
            batch, and on backends other than TensorFlow and JAX, a column is
            a batch.
        """
        batches = self._read(min(max_examples, _MAX_EXAMPLES))
        recurrent = _keras.recurrent_states(self._model)
        state = [
            (variable, ops.convert_to_numpy(variable))
            for variable in [
                *self._model.non_trainable_variables,
                *self._model.metrics_variables,
                *recurrent,
            ]
        ]
        switched = {id(index) for index in self._set_formats.indices}
        # What a choice would leave to the next one.
        left = [
            (variable, value)
            for variable, value in state
            if any(variable is x for x in recurrent)
            or not np.issubdtype(value.dtype, np.floating)
            and id(variable) not in switched
        ]
        rows = []
        try:
            with use_hook(FixedThresholds()):
                for choice in choices:
                    _restore(left)
                    self._set_formats(choice)
                    rows.append([self._losses(batch) for batch in batches])
        finally:
            _restore(state)
            self._set_formats.forget()
        return _columns(
            [
                np.array([ops.convert_to_numpy(part) for part in batch])
                for batch in zip(*rows, strict=True)
            ]
        )

    def _read(self, max_examples: float) -> list[tuple]:
        """Returns the batches of so many examples, one batch at least."""
        sizes = [_size_of(batch) for batch in self._batches]
        while sum(sizes) < max_examples:
            batch = next(self._unread, None)
            if batch is None:
                break
            self._batches.append(batch)
            sizes.append(_size_of(batch))
        count = int(np.sum(np.cumsum(sizes) <= max_examples))
        return self._batches[: max(1, count)]

    def _example_losses(self, batch):
        """Returns the loss of each example, whatever the loss function.

        A loss is linear in the weights of its examples: their gradient is
        what each contributes.
        """
        x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
        predicted = self._model(x, training=True)
        size = ops.shape(keras.tree.flatten(y)[0])[0]
        if weights is None:
            weights = _equal_weights(size, self._model.loss, y, predicted)

        def loss_of(factors):
            weight = keras.tree.map_structure(
                lambda given: _multiply_rows(given, factors), weights
            )
            metrics = []
            if keras.backend.backend() == "jax":
                metrics = [(v, v.value) for v in self._model.metrics_variables]
            loss = self._model.compute_loss(
                x=x, y=y, y_pred=predicted, sample_weight=weight
            )
            # Means of several outputs would keep what JAX traces.
            _restore(metrics)
            return loss

        # Whatever the default of Keras: in fewer bits, losses are alike.
        ones = ops.ones((size,), "float32")
        loss, gradient = _value_and_gradient(loss_of, ones)
        loss = ops.cast(loss, "float32")
        shares = gradient * ops.cast(size, "float32")
        return shares - ops.mean(shares) + loss


def _equal_weights(size, loss, y, predicted):
    """Returns weights of the examples, in dimensions that losses multiply.

    Keras does not expand weights to losses of words or pixels.
    """
    weights = keras.tree.map_structure(
        lambda output: ops.ones(
            (size,) + (1,) * (_rank_of_losses(loss, y, output) - 1)
        ),
        predicted,
    )
    flat = keras.tree.flatten(weights)
    # A loss of the model's own may take no more than one tensor of them.
    return weights if len({len(w.shape) for w in flat}) > 1 else flat[0]


def _rank_of_losses(loss, y, predicted) -> int:
    rank = len(predicted.shape) - 1
    # Weights of one dimension more than the losses multiply them, too.
    if rank > 2 and callable(loss) and not keras.tree.is_nested(y):
        function = getattr(loss, "call", loss)
        dtype = keras.config.floatx()
        losses = function(ops.cast(y, dtype), ops.cast(predicted, dtype))
        rank = len(losses.shape)
    return max(1, rank)


def _multiply_rows(x, factors):
    shape = (-1,) + (1,) * (len(x.shape) - 1)
    return ops.cast(x, "float32") * ops.reshape(factors, shape)


def _value_and_gradient(function, x):
    """Returns `function(x)` and its gradient, of zeros if it is unknown."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        gradient = tape.gradient(value, x)
        return value, ops.zeros_like(x) if gradient is None else gradient
    if backend == "jax":
        import jax

        return jax.value_and_grad(function)(x)
    return function(x), ops.zeros_like(x)


def _columns(batches: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the losses of batches side by side, a column an example.

    A column a batch if each has but one loss. It comes as that of all its
    examples, which do not count as independent then.
    """
    losses = np.concatenate(batches, axis=1).astype("float64")
    firsts = np.concatenate(
        [np.repeat(part[:, :1], part.shape[1], axis=1) for part in batches],
        axis=1,
    )
    is_of_batches = np.allclose(
        losses, firsts, rtol=1e-6, atol=0, equal_nan=True
    )
    # Examples may well be without any loss, by all formats.
    if is_of_batches and losses.any():
        return np.stack([part[:, 0] for part in batches], 1).astype("float64")
    return losses


def _restore(state: Sequence[tuple[keras.Variable, Any]]) -> None:
    for variable, value in state:
        variable.assign(value)


def _size_of(batch: tuple) -> int:
    return len(keras.tree.flatten(batch)[0])


def _batches(data: Any) -> Iterator[tuple]:
    """Yields batches as tensors, each as it is asked for."""
    if isinstance(data, tuple):
        data = _without_none(data)
        sizes = {len(part) for part in keras.tree.flatten(data)}
        if len(sizes) > 1:
            raise _wrong_data(f"arrays of {sorted(sizes)} examples")
        count = _size_of(data)
        size = min(_BATCH_SIZE, count) or 1
        # Equal batches weigh the same; what is left over is not used.
        batches = (
            keras.tree.map_structure(
                lambda part, start=start: part[start : start + size], data
            )
            for start in range(0, count - size + 1, size)
        )
    else:
        batches = iter(data)
    for batch in batches:
        # Keras takes lists for pairs, too.
        batch = tuple(batch) if isinstance(batch, list) else batch
        if not isinstance(batch, tuple) or len(batch) not in (2, 3):
            size = f" of {len(batch)}" if isinstance(batch, tuple) else ""
            raise _wrong_data(f"a {type(batch).__name__}{size} as a batch")
        batch = _without_none(batch)
        yield keras.tree.map_structure(ops.convert_to_tensor, batch)


def _without_none(batch: tuple) -> tuple:
    """Returns a batch without the weights that it has not."""
    return batch[:2] if len(batch) == 3 and batch[2] is None else batch


def _first(batches: Iterator[tuple], data: Any) -> tuple:
    batch = next(batches, None)
    if batch is None:
        raise _wrong_data(f"{type(data).__name__} of no batch")
    return batch


def _wrong_data(received: str) -> ValueError:
    return ValueError(
        "Expected `data` of at least one batch of inputs and targets: a "
        "pair of arrays of as many examples, or an iterable of pairs. "
        f"Received: {received}"
    )
