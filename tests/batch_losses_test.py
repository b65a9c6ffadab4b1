"""The loss of each batch, from metrics that are updated by hand."""

import sys

import keras
import numpy as np
import pytest
from keras import layers

import fliqs_keras
from fliqs_keras.batch_losses import BatchLosses


class OwnTracker(keras.Model):
    """As in Keras's guides, but for `metrics`: that of Keras stays, too."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.loss_tracker = keras.metrics.Mean(name="loss")

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        self.loss_tracker.update_state(loss)
        return {"loss": loss}


def compiled(model_class=keras.Model, **kwargs):
    inputs = keras.Input((2,))
    model = model_class(inputs, layers.Dense(1)(inputs))
    model.compile("sgd", "mse", **kwargs)
    return model


def read(losses, tracker, loss, size=None):
    """Reads the loss of a batch, after which `fit` shows the mean."""
    losses.begin()
    tracker.update_state(loss, sample_weight=size)
    return losses.end(float(tracker.result()))


def test_losses_are_those_of_each_batch():
    model = compiled()
    losses = BatchLosses(model)
    [tracker, *_] = model.metrics
    for loss, size in [(2.0, 8), (5.0, 8), (1.0, 3)]:
        assert read(losses, tracker, loss, size) == pytest.approx(loss)
    assert losses.batch_size == 8


def test_the_tracker_is_the_one_that_is_updated():
    model = compiled(OwnTracker)
    assert [metric.name for metric in model.metrics].count("loss") == 2
    losses = BatchLosses(model)
    assert read(losses, model.loss_tracker, 2.0) == 2.0
    assert read(losses, model.loss_tracker, 5.0) == 5.0
    # It counts batches, which says nothing of examples.
    assert losses.batch_size is None


def test_a_tracker_that_is_never_updated_is_refused():
    losses = BatchLosses(compiled(OwnTracker))
    losses.begin()
    with pytest.raises(ValueError, match="track its loss.*Received: .*loss"):
        losses.end(2.0)


@pytest.mark.parametrize("steps", [1, 4])
def test_one_example_is_told_from_one_batch(steps):
    model = compiled(steps_per_execution=steps)
    losses = BatchLosses(model)
    read(losses, model.metrics[0], 2.0, steps)
    assert losses.batch_size == steps


def test_metrics_may_be_reset_between_batches():
    model = compiled()
    losses = BatchLosses(model)
    [tracker, *_] = model.metrics
    read(losses, tracker, 2.0, 8)
    model.reset_metrics()
    tracker.update_state(9.0, sample_weight=100)
    assert read(losses, tracker, 5.0, 8) == pytest.approx(5.0)
    assert losses.batch_size == 8


# Before it, 8 examples were counted; behind it, fewer, as many, or as many
# more as a batch has.
@pytest.mark.parametrize("size", [0, 4, 8, 16])
def test_metrics_may_be_reset_before_they_are_read(size):
    model = compiled()
    losses = BatchLosses(model)
    [tracker, *_] = model.metrics
    read(losses, tracker, 2.0, 8)
    losses.begin()
    tracker.update_state(4.0, sample_weight=8)
    shown = float(tracker.result())
    model.reset_metrics()
    tracker.update_state(90.0, sample_weight=size)
    # The mean of the epoch so far is the nearest that is known.
    assert losses.end(shown) == pytest.approx(3.0)
    assert losses.batch_size == 8
    assert read(losses, tracker, 5.0, 8) == pytest.approx(5.0)


@pytest.mark.tensorflow
def test_batches_of_data_stand_for_those_that_no_metric_counts():
    model = fliqs_keras.apply(
        compiled(OwnTracker), ["INT4", "INT8"], inplace=True
    )
    model.compile("sgd", "mse", run_eagerly=True)
    x = np.random.default_rng(0).normal(size=(64, 2)).astype("float32")
    y = x[:, :1]
    search = fliqs_keras.FormatSearch(("INT4", 1.5), data=(x[:16], y[:16]))
    asked = []
    examples_for = search._examples_for
    search._examples_for = lambda probes: (
        asked.append(examples_for(probes)) or asked[-1]
    )
    model.fit(x, y, batch_size=16, verbose=0, callbacks=[search])
    # A step of four in INT8, then two probes. An example trained counts as
    # three passes, of which probes take 6 %.
    assert asked == [pytest.approx(0.06 * 3 * 4 * 16 / 2)]


@pytest.mark.parametrize("is_search_first", [False, True])
def test_a_model_that_is_evaluated_within_an_epoch(is_search_first, tmp_path):
    x = np.arange(48, dtype="float32").reshape(24, 2) / 48
    inputs = keras.Input((2,))
    model = keras.Model(inputs, layers.Dense(1, name="head")(inputs))
    model = fliqs_keras.apply(model, ["FP32"])
    # Steps of no length.
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    fixed = fliqs_keras.FixedFormats(
        {"head": "FP32"}, log_dir=tmp_path, log_every=1
    )
    evaluated = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: evaluated.model.evaluate(
            x[:16] + 10, x[:16, :1], batch_size=16, verbose=0
        )
    )
    callbacks = [fixed, evaluated] if is_search_first else [evaluated, fixed]
    model.fit(
        x,
        np.zeros((24, 1)),
        batch_size=8,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    expected = np.square(x @ model.get_layer("head").kernel.numpy())
    found = [r["loss"] for r in fliqs_keras.read_search_log(tmp_path)]
    if is_search_first:
        means = expected.reshape(3, 8).mean(axis=1)
        np.testing.assert_allclose(found, means, rtol=1e-4)
    else:
        assert found[0] == pytest.approx(expected[:8].mean(), rel=1e-4)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
