"""What a search would meet late, it meets at its second step."""

import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

import fliqs_keras
from fliqs_keras.format_training import FormatTraining
from tests.backends import IS_TENSORFLOW


class OwnLoss(keras.Model):
    """Its `train_step` has a loss that no one else knows."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.loss_tracker = keras.metrics.Mean(name="loss")

    def train_step(self, *args):
        if not IS_TENSORFLOW:
            # Trains on nothing.
            return super().train_step(*args)
        import tensorflow as tf

        [(x, _)] = args
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(self(x, training=True)))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        self.loss_tracker.update_state(loss)
        return {"loss": loss}


class AddsLoss(layers.Layer):
    def call(self, x, training=None):
        if training:
            self.add_loss(ops.mean(ops.square(x)))
        return x


def build(loss=None, more=(), model_class=keras.Model, regularizer=None):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    head = layers.Dense(3, name="head", kernel_regularizer=regularizer)
    x = head(inputs)
    for layer in more:
        x = layer(x)
    model = model_class(inputs, x)
    fliqs_keras.apply(model, ["INT2", "INT8"], inplace=True)
    model.compile("adam", loss, run_eagerly=True)
    return model


def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def make_data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(32, 4)).astype("float32"), rng.integers(0, 3, 32)


def search_with(data):
    controller = fliqs_keras.Sensitivity(start=0.5)
    return fliqs_keras.FormatSearch(
        ("INT2", 4.0), data=data, controller=controller
    )


def fit(model, search):
    """Trains four steps; formats are compared at the third."""
    x, y = make_data()
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[search])


@pytest.mark.parametrize("kind", ["examples", "one_hot"])
def test_data_that_no_probe_takes(kind):
    x, y = make_data()
    data = {
        "examples": list(zip(x, y, strict=True)),
        "one_hot": (x, np.eye(3)[y]),
    }[kind]
    search = search_with(data)
    with pytest.raises(Exception, match="(?i)shape|rank|dim"):
        fit(build(cross_entropy()), search)
    assert len(search.history) == 1


@pytest.mark.parametrize("regularizer", [None, "l2"])
def test_a_loss_that_only_the_step_knows(regularizer):
    search = search_with(make_data())
    model = build(model_class=OwnLoss, regularizer=regularizer)
    with pytest.raises(ValueError, match="compiled without `loss`"):
        fit(model, search)
    assert len(search.history) == 1


def test_losses_that_are_added_are_compared():
    search = search_with(make_data())
    fit(build(more=[AddsLoss()]), search)
    assert search.sensitivity is not None


def test_nothing_is_changed_by_what_is_tried(monkeypatch):
    def train():
        read = []

        def endless():
            while True:
                read.append(len(search.history))
                yield make_data()

        search = search_with(endless())
        more = [layers.BatchNormalization(), layers.Dropout(0.5)]
        model = build(cross_entropy(), more)
        fit(model, search)
        return [w.numpy() for w in model.weights], search.history, read

    tried = train()
    monkeypatch.setattr(FormatTraining, "_try_probe", lambda self: None)
    plain = train()
    assert tried[1:] == plain[1:]
    for a, b in zip(tried[0], plain[0], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(IS_TENSORFLOW, reason="Keras calls in the same thread.")
def test_a_search_that_keras_calls_while_it_trains():
    search = search_with(make_data())
    x, y = make_data()
    with pytest.raises(ValueError, match=r"callbacks=\[search\]"):
        build(cross_entropy()).fit(
            x, y, batch_size=8, verbose=0, callbacks=search
        )
    assert search.history == []


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
