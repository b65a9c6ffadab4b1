"""Searches beside other callbacks of `fit`."""

import sys

import keras
import numpy as np
import pytest
from keras import layers

import fliqs_keras
from tests.end_to_end_test import build_net, compile_net, make_data


@pytest.mark.parametrize("is_backup_first", [False, True])
def test_a_resumed_training_searches_in_the_epochs_that_are_left(
    is_backup_first, tmp_path
):
    model = compile_net(fliqs_keras.apply(build_net(), ["INT4", "INT8"]))
    x, y = make_data(64)
    search = fliqs_keras.FormatSearch(("INT4", 1.2), data=(x, y))
    callbacks = [search, keras.callbacks.BackupAndRestore(tmp_path)]
    if is_backup_first:
        callbacks.reverse()

    class Interruption(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(
            x, y, epochs=4, verbose=0, callbacks=[*callbacks, Interruption()]
        )
    assert len(search.history) == 6
    model.fit(x, y, epochs=4, verbose=0, callbacks=callbacks)
    assert len(search.history) == 2
    assert search.sensitivity is not None


@pytest.mark.parametrize("is_off", [False, True])
def test_a_training_without_a_step_leaves_the_formats(is_off, caplog):
    model = compile_net(fliqs_keras.apply(build_net(), ["INT4", "INT8"]))
    x, y = make_data(64)
    found = {"conv": "INT8", "depthwise": "INT4", "head": "INT4"}
    found = fliqs_keras.FormatAssignment(found)
    found.apply_to(model)
    head = model.get_layer("head").input_quantizer
    if is_off:
        # As weights that were saved while activations were in float have it.
        head.set_format(None)
    search = fliqs_keras.FormatSearch(("INT4", 1.5), data=(x, y))
    model.fit(x, y, epochs=4, initial_epoch=4, verbose=0, callbacks=[search])
    assert search.assignment == found
    assert fliqs_keras.FormatAssignment.from_model(model) == found
    assert str(head.format) == "INT4"
    assert "No step was trained" in caplog.text


@pytest.mark.parametrize("controller", ["sensitivity", "reinforce"])
def test_checkpoints_keep_the_target(controller, tmp_path):
    model = compile_net(fliqs_keras.apply(build_net(), ["INT2", "INT8"]))
    x, y = make_data(64)
    search = fliqs_keras.FormatSearch(
        ("INT2", 2.0), data=(x, y), controller=controller, seed=0
    )
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    model.fit(x, y, epochs=4, verbose=0, callbacks=[search, checkpoint])
    costs = [
        fliqs_keras.BitOps()(keras.saving.load_model(path))
        for path in sorted(tmp_path.iterdir())
    ]
    assert len(costs) == 4
    assert max(costs) <= search.target * (1 + 1e-9)


def test_a_training_that_is_stopped_says_that_the_search_was_not_over(caplog):
    model = compile_net(fliqs_keras.apply(build_net(), ["INT4", "INT8"]))
    x, y = make_data(64)
    search = fliqs_keras.FormatSearch(("INT4", 1.2), data=(x, y))
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", True)
    )
    model.fit(x, y, epochs=20, verbose=0, callbacks=[search, stop])
    assert "ended after 2 of 40 steps" in caplog.text
    assert search.sensitivity is None
    assert fliqs_keras.BitOps()(model) <= search.target


def test_a_search_outlives_losses_that_are_no_numbers(caplog):
    model = compile_net(fliqs_keras.apply(build_net(), ["INT4", "INT8"]))
    x, y = make_data(64)
    x[16:] = np.nan
    search = fliqs_keras.FormatSearch(
        ("INT4", 1.5), controller="reinforce", seed=0
    )
    model.fit(
        x,
        y,
        batch_size=8,
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[search],
    )
    assert np.isnan(search.history[-1]["reward"])
    assert np.isfinite(search.history[-1]["baseline"])
    assert search.assignment is not None
    assert "loss of step 2 is nan" in caplog.text


def variances_of(model):
    return keras.ops.convert_to_numpy(model.get_layer("norm").moving_variance)


@pytest.mark.parametrize("is_search_first", [False, True])
def test_statistics_survive_weights_that_are_restored(is_search_first):
    model = compile_net(fliqs_keras.apply(build_net(), ["INT4", "INT8"]))
    x, y = make_data(64)
    search = fliqs_keras.FormatSearch(("INT4", 1.2), data=(x, y))
    best = []

    class Best(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            best.append(variances_of(self.model))

    # The first epoch counts as the best.
    restore = keras.callbacks.EarlyStopping(
        "loss", mode="max", patience=50, restore_best_weights=True
    )
    callbacks = [search, restore] if is_search_first else [restore, search]
    model.fit(x, y, epochs=20, verbose=0, callbacks=[*callbacks, Best()])
    kept = restore.best_epoch
    np.testing.assert_allclose(variances_of(model), best[kept], rtol=1e-5)


@pytest.mark.parametrize("is_search_first", [False, True])
def test_formats_of_weights_that_are_restored(is_search_first):
    model = compile_net(fliqs_keras.apply(build_net(), ["INT4", "INT8"]))
    x, y = make_data(64)
    search = fliqs_keras.FormatSearch(("INT4", 1.2), data=(x, y))
    head = model.get_layer("head").input_quantizer
    # The first epoch, in which activations are in float, counts as the best.
    restore = keras.callbacks.EarlyStopping(
        "loss", mode="max", patience=50, restore_best_weights=True
    )
    callbacks = [search, restore] if is_search_first else [restore, search]
    model.fit(x, y, epochs=20, verbose=0, callbacks=callbacks)
    assert restore.best_epoch < 2
    assert (head.format is None) == is_search_first


def test_what_is_evaluated_and_saved_last_is_the_result(tmp_path):
    model = compile_net(fliqs_keras.apply(build_net(), ["INT4", "INT8"]))
    x, y = make_data(64)
    search = fliqs_keras.FormatSearch(("INT4", 1.2), data=(x, y))
    path = tmp_path / "last.keras"
    history = model.fit(
        x,
        y,
        epochs=10,
        verbose=0,
        validation_data=(x, y),
        callbacks=[search, keras.callbacks.ModelCheckpoint(path)],
    ).history
    loss = model.evaluate(x, y, verbose=0)
    assert history["val_loss"][-1] == pytest.approx(loss, rel=1e-5)
    saved = keras.saving.load_model(path)
    assert saved.evaluate(x, y, verbose=0) == pytest.approx(loss, rel=1e-5)


def test_a_small_last_batch_is_not_taken_for_all():
    examples = []
    for count in (128, 129):
        model = compile_net(fliqs_keras.apply(build_net(), ["INT4", "INT8"]))
        x, y = make_data(count)
        search = fliqs_keras.FormatSearch(("INT4", 1.2), data=(x, y))
        examples_for = search._examples_for
        search._examples_for = lambda probes, ask=examples_for: (
            examples.append(ask(probes)) or examples[-1]
        )
        # The formats are compared at the first step of the second epoch.
        model.fit(x, y, epochs=4, verbose=0, callbacks=[search])
    full, with_rest = examples
    assert with_rest >= full > 1


def test_total_steps_are_those_of_all_epochs():
    model = compile_net(fliqs_keras.apply(build_net(), ["INT4", "INT8"]))
    x, y = make_data(64)
    search = fliqs_keras.FormatSearch(
        ("INT4", 1.2), controller="reinforce", seed=0, total_steps=20
    )
    model.fit(x, y, epochs=10, initial_epoch=8, verbose=0, callbacks=[search])
    assert len(search.history) == 4
    assert search.history[-1]["cost"] <= search.target * (1 + 1e-9)


def test_formats_are_set_again_after_weights_are_loaded():
    model = compile_net(fliqs_keras.apply(build_net(), ["INT2", "INT8"]))
    x, y = make_data(64)
    first = model.get_weights()
    seen = []

    class Back(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.set_weights(first)

        def on_train_batch_end(self, batch, logs=None):
            seen.append(fliqs_keras.FormatAssignment.from_model(model))

    given = {"conv": "INT2", "depthwise": "INT8", "head": "INT2"}
    fixed = fliqs_keras.FixedFormats(given)
    model.fit(x, y, epochs=3, verbose=0, callbacks=[fixed, Back()])
    assert seen == [fliqs_keras.FormatAssignment(given)] * len(seen)


def test_one_callback_serves_models_with_sizes_and_without():
    x, y = make_data(64)
    search = fliqs_keras.FormatSearch(("INT4", 1.2), data=(x, y))
    space = fliqs_keras.SearchSpace(
        ["INT4", "INT8"],
        architecture=[fliqs_keras.nas.Width(["conv"], [0.5, 1.0])],
    )
    for options in (space, ["INT4", "INT8"]):
        model = compile_net(fliqs_keras.apply(build_net(), options))
        model.fit(x, y, epochs=4, verbose=0, callbacks=[search])
        assert search.assignment is not None


def test_fixed_formats_where_there_is_no_choice():
    space = fliqs_keras.SearchSpace({"head": "INT8", "*": ["INT4", "INT8"]})
    model = compile_net(fliqs_keras.apply(build_net(), space))
    x, y = make_data(64)
    fixed = fliqs_keras.FixedFormats({"conv": "INT4", "depthwise": "INT8"})
    model.fit(x, y, verbose=0, callbacks=[fixed])
    assert str(fixed.assignment["head"]) == "INT8"


def test_fixed_formats_of_a_sequence_of_open_length():
    inputs = keras.Input((None, 4))
    outputs = layers.Dense(1)(layers.LSTM(3, name="lstm")(inputs))
    model = fliqs_keras.apply(keras.Model(inputs, outputs), ["INT4", "INT8"])
    model.compile("adam", "mse")
    fixed = fliqs_keras.FixedFormats(
        dict.fromkeys(fliqs_keras.FormatAssignment.from_model(model), "INT4")
    )
    x = np.random.default_rng(0).normal(size=(16, 5, 4)).astype("float32")
    model.fit(x, np.zeros((16, 1)), verbose=0, callbacks=[fixed])
    assert {str(f) for f in fixed.assignment.values()} == {"INT4"}


def test_metrics_of_the_model_keep_their_names():
    model = fliqs_keras.apply(build_net(), ["INT4", "INT8"])
    metric = keras.metrics.SparseCategoricalAccuracy(name="reward")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, metrics=[metric], jit_compile=False)
    x, y = make_data(64)
    search = fliqs_keras.FormatSearch(("INT4", 1.5), controller="reinforce")
    shown = model.fit(x, y, epochs=2, verbose=0, callbacks=[search]).history
    assert 0 <= shown["reward"][-1] <= 1
    assert search.history[-1]["reward"] < 0
    assert shown["entropy"][-1] == search.history[-1]["entropy"]


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
