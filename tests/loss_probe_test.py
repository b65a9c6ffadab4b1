"""Probes: right losses, the same for all, and a model left as it was."""

import gc
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import fliqs_keras
from fliqs_keras.assignments import FormatSetter, decisions
from fliqs_keras.loss_probe import LossProbe

FORMATS = ["INT2", "INT8", "FP32"]


def make_data(count=96):
    generator = np.random.default_rng(0)
    y = generator.integers(0, 3, count)
    x = generator.normal(size=(count, 6)) + y[:, None]
    return x.astype("float32"), y


def build_model(dropout=0.0, loss=None, **kwargs):
    inputs = keras.Input((6,))
    x = layers.Dense(8, name="first")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Dropout(dropout, seed=1)(x)
    outputs = layers.Dense(3, name="second")(x)
    model = fliqs_keras.apply(keras.Model(inputs, outputs), FORMATS)
    model.compile(
        loss=loss or keras.losses.SparseCategoricalCrossentropy(True),
        metrics=["accuracy"],
        jit_compile=False,
        **kwargs,
    )
    model.fit(*make_data(), batch_size=32, verbose=0)
    return model


def probe(model, choices, data=None, max_examples=96):
    setter = FormatSetter(decisions(model))
    data = make_data() if data is None else data
    return LossProbe(model, setter, data)(choices, max_examples)


def test_losses_are_those_of_each_example():
    model = build_model()
    model.get_layer("norm").trainable = False
    x, y = make_data(64)
    weight = np.linspace(0, 2, 64).astype("float32")
    [losses] = probe(model, [[2, 2]], (x, y, weight))
    fliqs_keras.FormatAssignment({"first": "FP32", "second": "FP32"}).apply_to(
        model
    )
    logits = model.predict(x, verbose=0)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -weight * log_p[np.arange(64), y]
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-5)


def set_default(dtype):
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)


@pytest.fixture
def few_bits():
    set_default("bfloat16")
    yield
    set_default("float32")


def test_losses_where_the_default_of_keras_has_few_bits(few_bits):
    model = build_model()
    losses = probe(model, [[2, 2]])
    assert losses.shape == (1, 64)
    assert losses.std() > 0
    # Keras then shows losses that are no numbers of Python.
    search = fliqs_keras.FormatSearch(("INT8", 1.5), controller="reinforce")
    model.fit(*make_data(), batch_size=32, verbose=0, callbacks=[search])
    assert isinstance(search.history[-1]["reward"], float)


def test_batch_norm_uses_the_batch():
    model = build_model()
    before = probe(model, [[2, 2]])
    model.get_layer("norm").moving_mean.assign(np.full(8, 100.0))
    np.testing.assert_allclose(probe(model, [[2, 2]]), before, rtol=1e-5)


def test_choices_see_the_same_dropout():
    model = build_model(dropout=0.5)
    first, other, again = probe(model, [[1, 1], [0, 1], [1, 1]])
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_choices_see_the_same_states():
    inputs = keras.Input(batch_shape=(32, 2, 3))
    x = layers.LSTM(4, stateful=True, name="lstm")(inputs)
    outputs = layers.Dense(3, name="second")(x)
    model = fliqs_keras.apply(keras.Model(inputs, outputs), FORMATS)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(True))
    x, y = make_data(32)
    x = x.reshape(32, 2, 3)
    fliqs_keras.calibrate(model, x)
    [before, _] = [state.numpy() for state in model.get_layer("lstm").states]
    first, _, again = probe(model, [[1, 1], [0, 1], [1, 1]], [(x, y)])
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(model.get_layer("lstm").states[0], before)


def test_model_is_left_as_it_was():
    model = build_model(dropout=0.5)
    fliqs_keras.FormatAssignment({"first": "INT8", "second": "FP32"}).apply_to(
        model
    )
    variables = [*model.variables, *model.metrics_variables]
    before = [v.numpy() for v in variables]
    probe(model, [[0, 0], [1, 2]])
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


@pytest.mark.parametrize(
    "max_examples, columns", [(0, 32), (32, 32), (95, 64), (96, 96)]
)
def test_no_more_examples_than_allowed_but_one_batch(max_examples, columns):
    x, y = make_data()
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)
    losses = probe(build_model(), [[1, 1]], data, max_examples)
    assert losses.shape == (1, columns)


def test_loss_that_takes_no_weights_is_given_by_batch():
    class Model(keras.Model):
        def compute_loss(self, x, y, y_pred, sample_weight=None, **kwargs):
            return keras.ops.mean(keras.ops.square(y_pred))

    inputs = keras.Input((6,))
    outputs = layers.Dense(3, name="only")(inputs)
    model = fliqs_keras.apply(Model(inputs, outputs), FORMATS)
    model.compile(loss="mse", jit_compile=False)
    x, y = make_data(128)
    model.fit(x, y, verbose=0)
    losses = probe(model, [[2]], (x, y), 128)
    fliqs_keras.FormatAssignment({"only": "FP32"}).apply_to(model)
    squares = np.square(model.predict(x, verbose=0))
    expected = [[squares[:64].mean(), squares[64:].mean()]]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def loss_of_a_batch(y, predicted):
    return keras.ops.mean(keras.ops.square(y - predicted))


def test_loss_of_a_whole_batch_is_one_loss():
    model, x, y = position_model((5, 3), loss_of_a_batch)
    batches = [(x[:3], y[:3]), (x[3:], y[3:])]
    losses = probe(model, [[0], [2]], batches)
    squares = squares_in_floats(model, x, y)
    assert losses.shape == (2, 2)
    expected = [squares[:3].mean(), squares[3:].mean()]
    np.testing.assert_allclose(losses[1], expected, rtol=1e-5)


def two_outputs():
    inputs = keras.Input((6,))
    outputs = {name: layers.Dense(1, name=name)(inputs) for name in ("p", "q")}
    model = fliqs_keras.apply(keras.Model(inputs, outputs), FORMATS)
    model.compile(loss="mse", jit_compile=False)
    return model


def test_weights_of_each_output():
    model = two_outputs()
    x, _ = make_data(64)
    targets = {"p": np.ones((64, 1)), "q": np.zeros((64, 1))}
    weights = {
        "p": np.linspace(0, 2, 64).astype("float32"),
        "q": np.linspace(3, 1, 64).astype("float32"),
    }
    model.fit(x, targets, verbose=0)
    _, losses = probe(model, [[1, 2], [2, 2]], (x, targets, weights))
    fliqs_keras.FormatAssignment({"p": "FP32", "q": "FP32"}).apply_to(model)
    predicted = model.predict(x, verbose=0)
    expected = sum(
        weights[k] * np.square(targets[k] - predicted[k])[:, 0] for k in targets
    )
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-5)


def position_model(shape, loss="mse", labels=False):
    """Returns a model of two numbers a position, fitted, and its data."""
    inputs = keras.Input(shape)
    x = layers.Masking()(inputs) if len(shape) == 2 else inputs
    outputs = layers.Dense(2, name="map")(x)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(4, *shape)).astype("float32")
    y = generator.normal(size=(4, *shape[:-1], 2)).astype("float32")
    if labels:
        flat = layers.Flatten()(inputs)
        outputs = {"map": outputs, "label": layers.Dense(1, name="label")(flat)}
        y = {"map": y, "label": np.ones((4, 1), "float32")}
    model = fliqs_keras.apply(keras.Model(inputs, outputs), FORMATS)
    model.compile(loss=loss, run_eagerly=True)
    model.fit(x, y, verbose=0)
    return model, x, y


def squares_in_floats(model, x, y):
    names = [decision.name for decision in decisions(model)]
    fliqs_keras.FormatAssignment(dict.fromkeys(names, "FP32")).apply_to(model)
    return keras.tree.map_structure(
        lambda target, output: np.square(
            target - keras.ops.convert_to_numpy(output)
        ),
        y,
        model(x),
    )


def loss_of_an_image(y, predicted):
    return keras.ops.mean(keras.ops.square(y - predicted), axis=(1, 2, 3))


@pytest.mark.parametrize(
    "shape, loss",
    [
        ((5, 3), "mse"),
        ((4, 3), "mse"),
        ((2, 3, 3), "mse"),
        ((2, 3, 3), loss_of_an_image),
    ],
    ids=["words", "words_as_examples", "pixels", "images"],
)
def test_loss_of_an_example_is_the_mean_of_its_positions(shape, loss):
    model, x, y = position_model(shape, loss)
    [losses] = probe(model, [[2]], (x, y))
    squares = squares_in_floats(model, x, y)
    expected = squares.reshape(4, -1).mean(axis=1)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_masked_positions_have_no_loss():
    model, x, y = position_model((5, 3))
    # Of 20 positions 16 are left.
    x[0, 1:4] = x[2, 4] = 0
    [losses] = probe(model, [[2]], (x, y))
    squares = squares_in_floats(model, x, y).mean(axis=-1)
    squares[0, 1:4] = squares[2, 4] = 0
    expected = squares.sum(axis=1) * 4 / 16
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_outputs_with_and_without_positions():
    model, x, y = position_model((5, 3), labels=True)
    [losses] = probe(model, [[2, 2]], (x, y))
    squares = squares_in_floats(model, x, y)
    expected = squares["map"].mean(axis=(1, 2)) + squares["label"][:, 0]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_pairs_may_be_lists():
    x, y = make_data(64)
    model = build_model()
    as_lists = probe(model, [[1, 1]], [[x[:32], y[:32]], [x[32:], y[32:]]])
    as_pairs = probe(model, [[1, 1]], [(x[:32], y[:32]), (x[32:], y[32:])])
    np.testing.assert_array_equal(as_lists, as_pairs)


def test_losses_that_are_zero_are_losses_of_examples():
    inputs = keras.Input((6,))
    outputs = layers.Dense(3, kernel_initializer="zeros", name="only")(inputs)
    model = fliqs_keras.apply(keras.Model(inputs, outputs), FORMATS)
    model.compile(loss="mse", optimizer=keras.optimizers.SGD(0.0))
    x, _ = make_data(64)
    y = np.zeros((64, 3), "float32")
    model.fit(x, y, verbose=0)
    losses = probe(model, [[1], [2]], (x, y))
    np.testing.assert_array_equal(losses, np.zeros((2, 64)))


@pytest.mark.tensorflow
def test_an_eager_model_is_probed_eagerly():
    def loss(y, predicted):
        assert predicted.numpy() is not None
        return keras.losses.sparse_categorical_crossentropy(
            y, predicted, from_logits=True
        )

    model = build_model(loss=loss, run_eagerly=True)
    assert probe(model, [[1, 1]]).shape == (1, 64)


@pytest.mark.parametrize(
    "data",
    [
        (np.zeros((4, 6), "float32"),),
        [],
        (np.zeros((0, 6)), np.zeros((0,))),
        [np.zeros((4, 6), "float32")],
        (np.zeros((4, 6), "float32"), np.zeros(3)),
    ],
    ids=["no_targets", "no_batch", "no_example", "inputs_only", "unlike"],
)
def test_data_is_checked(data):
    model = build_model()
    with pytest.raises(ValueError, match="inputs and targets.*Received"):
        probe(model, [[0, 0]], data)


@pytest.mark.parametrize(
    "max_examples, batch_size, used", [(64, 32, 2), (1e9, 3000, 1)]
)
def test_no_more_is_read_than_is_used(max_examples, batch_size, used):
    model, x, y = position_model((2, 3))
    x, y = (np.resize(part, (batch_size, *part.shape[1:])) for part in (x, y))
    read = []

    def endless():
        while True:
            read.append(1)
            yield x, y

    losses = probe(model, [[1]], endless(), max_examples)
    assert losses.shape == (1, used * batch_size)
    # Whether the next is too large only shows when it is read.
    assert len(read) == 2


class Examples:
    """An endless data set that knows whether it is still read."""

    def __init__(self, *batch):
        self.batch = batch
        self.readers = 0

    def __iter__(self):
        self.readers += 1
        try:
            while True:
                yield self.batch
        finally:
            self.readers -= 1


def test_examples_are_not_kept_after_training():
    model, x, y = position_model((2, 3))
    examples = Examples(x, y)
    search = fliqs_keras.FormatSearch(("INT8", 1.0), data=examples)
    model.fit(x, y, batch_size=1, verbose=0, callbacks=[search])
    gc.collect()
    assert search.assignment is not None
    assert examples.readers == 0


@pytest.mark.parametrize("batched", [False, True])
def test_weights_may_be_none(batched):
    model, x, y = position_model((2, 3))
    data = [[x, y, None]] if batched else (x, y, None)
    expected = probe(model, [[1]], (x, y))
    np.testing.assert_array_equal(probe(model, [[1]], data), expected)


def test_model_is_left_as_it_was_by_a_probe_that_fails():
    model = build_model(dropout=0.5)
    before = [variable.numpy() for variable in model.variables]
    x, y = make_data(32)
    with pytest.raises(Exception, match="(?i)shape|dimension|incompatible"):
        probe(model, [[0, 0]], [(x, y), (x[:, :5], y)], 64)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
