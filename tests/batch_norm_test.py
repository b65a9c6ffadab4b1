"""What the statistics of batch normalization are set to."""

import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

import fliqs_keras
from tests.backends import IS_TENSORFLOW

X = np.random.default_rng(0).normal(3, 2, size=(160, 4)).astype("float32")


def test_batch_norm_is_recalibrated_to_the_data():
    model = keras.Sequential(
        [keras.Input((3,)), layers.BatchNormalization(momentum=0.9)]
    )
    x = np.random.default_rng(0).normal(5.0, 2.0, (128, 3)).astype("float32")
    fliqs_keras.recalibrate_batch_norm(model, x)
    norm = model.layers[0]
    np.testing.assert_allclose(norm.moving_mean, x.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, x.var(axis=0), rtol=1e-4)


@pytest.mark.parametrize("is_dataset", [False, True])
def test_a_left_over_batch_weighs_what_it_holds(is_dataset):
    norm = layers.BatchNormalization()
    model = keras.Sequential([keras.Input((4,)), norm])
    x = X[:129]
    parts = [x[:128], x[128:]]
    fliqs_keras.recalibrate_batch_norm(model, parts if is_dataset else x)
    np.testing.assert_allclose(norm.moving_mean, x.mean(axis=0), rtol=1e-5)
    # A single example has no variance.
    variance = 128 / 129 * x[:128].var(axis=0)
    np.testing.assert_allclose(norm.moving_variance, variance, rtol=1e-5)


@pytest.mark.parametrize("momentum", [0.9, 0.999])
def test_small_variances_are_not_lost_beside_one(momentum):
    norm = layers.BatchNormalization(momentum=momentum)
    model = keras.Sequential([keras.Input((4,)), norm])
    x = 1e-3 * X
    fliqs_keras.recalibrate_batch_norm(model, x[:128])
    np.testing.assert_allclose(
        norm.moving_variance, x[:128].var(axis=0), rtol=1e-4
    )


def test_statistics_stay_if_the_data_does_not_fit():
    norm = layers.BatchNormalization()
    model = keras.Sequential([keras.Input((4,)), norm])
    norm.moving_mean.assign([1.0, 2.0, 3.0, 4.0])
    with pytest.raises(ValueError):
        fliqs_keras.recalibrate_batch_norm(model, [X[:8], X[:8, :3]])
    np.testing.assert_array_equal(norm.moving_mean, [1, 2, 3, 4])
    np.testing.assert_array_equal(norm.moving_variance, np.ones(4))


class Norms(keras.Model):
    """Updates batch normalizations not at all, once and twice a step."""

    def __init__(self):
        super().__init__()
        self.never = layers.BatchNormalization()
        self.once = layers.BatchNormalization()
        self.twice = layers.BatchNormalization()
        self.each = layers.BatchNormalization()
        self.each_step = layers.TimeDistributed(self.each)
        inputs = keras.Input((4,))
        outputs = self.once(inputs)
        self.part = keras.Model(inputs, outputs)
        self.whole = keras.Model(inputs, layers.Dense(1)(outputs))

    def call(self, x, training=None):
        # Keras would have them all see what the one before was told.
        is_training = {"training": training}
        y = self.never(x, training=False)
        y = y + self.twice(x, **is_training) + self.twice(x, **is_training)
        steps = self.each_step(ops.stack([x, x], axis=1), **is_training)
        y = ops.mean(y + ops.sum(steps, axis=1), axis=-1, keepdims=True)
        return self.whole(x, **is_training) + y


def build_norms(x):
    model = Norms()
    model(x)
    model.never.moving_mean.assign([1.0, 2.0, 3.0, 4.0])
    return model


def check_statistics(model, x):
    for norm in (model.once, model.twice, model.each):
        np.testing.assert_allclose(norm.moving_mean, x.mean(0), rtol=1e-4)
        np.testing.assert_allclose(norm.moving_variance, x.var(0), rtol=1e-3)
        assert norm.momentum == 0.99
    np.testing.assert_array_equal(model.never.moving_mean, [1, 2, 3, 4])
    np.testing.assert_array_equal(model.never.moving_variance, np.ones(4))


def test_each_batch_norm_is_recalibrated_by_its_own_updates():
    x = X[:128]
    model = build_norms(x)
    fliqs_keras.recalibrate_batch_norm(model, x)
    check_statistics(model, x)


def test_statistics_that_are_no_numbers_are_recalibrated():
    norm = layers.BatchNormalization()
    model = keras.Sequential([keras.Input((4,)), norm])
    norm.moving_mean.assign([np.nan, np.inf, 0.0, 0.0])
    fliqs_keras.recalibrate_batch_norm(model, X[:128])
    np.testing.assert_allclose(norm.moving_mean, X[:128].mean(0), rtol=1e-5)


def train_in_one_format(model, x, **options):
    model = fliqs_keras.apply(model, "INT8", inplace=True)
    # Without XLA where it can be left out, which compiles for long.
    options = {"jit_compile": not IS_TENSORFLOW} | options
    model.compile(keras.optimizers.SGD(0.0), "mse", **options)
    formats = fliqs_keras.FormatAssignment.from_model(model)
    # The statistics are those of the last tenth. Of several steps at once, the
    # last one is missing.
    count = 11 * model.steps_per_execution - 1
    model.fit(
        np.tile(x, (count, 1)),
        np.zeros((count * len(x), 1)),
        batch_size=len(x),
        shuffle=False,
        verbose=0,
        callbacks=[fliqs_keras.FixedFormats(formats)],
    )


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"steps_per_execution": 3}, id="compiled"),
        pytest.param(
            {"run_eagerly": True, "jit_compile": False},
            id="eager",
            marks=pytest.mark.tensorflow,
        ),
    ],
)
def test_each_batch_norm_ends_on_its_own_updates(options):
    model = build_norms(X[:32])
    train_in_one_format(model, X[:32], **options)
    check_statistics(model, X[:32])


class AsksForValues(keras.Model):
    """Runs eagerly, and not otherwise."""

    def __init__(self):
        super().__init__()
        self.norm = layers.BatchNormalization()
        self.dense = layers.Dense(1)

    def call(self, x, training=None):
        if float(ops.max(x)) < 0:
            return x
        return self.dense(self.norm(x, training=training))


@pytest.mark.tensorflow
def test_a_model_that_only_runs_eagerly_is_taken_to_update_once():
    model = AsksForValues()
    model(X[:32])
    train_in_one_format(model, X[:32], run_eagerly=True, jit_compile=False)
    np.testing.assert_allclose(
        model.norm.moving_variance, X[:32].var(0), rtol=1e-3
    )


class TwoPasses(keras.Model):
    """Calls itself once more than its `call` shows."""

    def compute_loss(self, x=None, y=None, y_pred=None, *args, **kwargs):
        self(x, training=True)
        return super().compute_loss(x, y, y_pred, *args, **kwargs)


def test_updates_that_are_not_known_leave_no_negative_variance():
    inputs = keras.Input((4,))
    norm = layers.BatchNormalization(name="norm")
    outputs = layers.Dense(1)(norm(inputs))
    model = TwoPasses(inputs, outputs)
    norm.moving_variance.assign(np.full(4, 1e6))
    train_in_one_format(model, X[:32])
    expected = X[:32].var(0) + 0.99**20 * (1e6 - X[:32].var(0))
    np.testing.assert_allclose(norm.moving_variance, expected, rtol=1e-4)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
