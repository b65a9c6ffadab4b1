"""Models that are built as few are, but as users build them."""

import pathlib
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

import fliqs_keras

X = np.random.default_rng(0).normal(50, 10, size=(64, 4)).astype("float32")


def test_adapted_normalization_is_copied():
    normalization = layers.Normalization()
    normalization.adapt(X)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(normalization(inputs)))
    quantized = fliqs_keras.apply(model, "INT16")
    fliqs_keras.calibrate(quantized, X)
    np.testing.assert_allclose(quantized(X), model(X), atol=1e-2)


def test_adapted_normalization_is_extracted():
    normalization = layers.Normalization()
    normalization.adapt(X)
    x = inputs = keras.Input((4,))
    x = layers.Dense(8, name="wide")(normalization(x))
    model = keras.Model(inputs, layers.Dense(2)(x))
    space = fliqs_keras.SearchSpace(
        ["INT16"], architecture=fliqs_keras.nas.Width("wide", [4, 8])
    )
    model = fliqs_keras.apply(model, space)
    fliqs_keras.calibrate(model, X)
    small = fliqs_keras.nas.extract(model)
    np.testing.assert_allclose(small(X), model(X), atol=1e-5)


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", ["string", "integer", "text"])
def test_adapted_vocabularies_are_copied(kind):
    lookup, words, dtype = {
        "string": (layers.StringLookup(), ["b", "a", "b"], "string"),
        "integer": (layers.IntegerLookup(), [7, 5, 7], "int64"),
        "text": (
            layers.TextVectorization(output_sequence_length=1),
            ["b", "a", "b"],
            "string",
        ),
    }[kind]
    lookup.adapt(np.array(words))
    inputs = keras.Input((1,), dtype=dtype)
    y = layers.Embedding(9, 3)(lookup(inputs))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(y)))
    quantized = fliqs_keras.apply(model, "INT16")
    import tensorflow as tf

    data = tf.constant(words, dtype)[:, None]
    fliqs_keras.calibrate(quantized, [data])
    np.testing.assert_allclose(quantized(data), model(data), atol=1e-3)


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", ["string", "integer", "text"])
def test_adapted_frequencies_are_copied(kind):
    lookup, words, dtype = {
        "string": (layers.StringLookup, ["b", "a", "b"], "string"),
        "integer": (layers.IntegerLookup, [7, 5, 7], "int64"),
        "text": (layers.TextVectorization, ["b", "a", "b"], "string"),
    }[kind]
    lookup = lookup(output_mode="tf_idf", name="lookup")
    lookup.adapt(np.array(words))
    inputs = keras.Input((1,), dtype=dtype)
    model = keras.Model(inputs, layers.Dense(2)(lookup(inputs)))
    quantized = fliqs_keras.apply(model, "INT16")
    import tensorflow as tf

    data = tf.constant(words, dtype)[:, None]
    np.testing.assert_array_equal(
        quantized.get_layer("lookup")(data), lookup(data)
    )


@pytest.mark.tensorflow
def test_vocabularies_that_are_given_or_not_known_yet_are_no_error():
    for options in ({"vocabulary": ["a", "b"]}, {}):
        inputs = keras.Input((1,), dtype="string")
        y = layers.Embedding(9, 3)(layers.StringLookup(**options)(inputs))
        model = keras.Model(inputs, layers.Dense(2)(y))
        assert fliqs_keras.apply(model, "INT8") is not model


@keras.saving.register_keras_serializable("unusual_models_test")
class Assets(layers.Layer):
    """Saves assets of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.factor = 1.0

    def call(self, x):
        return self.factor * x

    def save_assets(self, folder):
        pathlib.Path(folder, "factor").write_text(str(self.factor))

    def load_assets(self, folder):
        self.factor = float(pathlib.Path(folder, "factor").read_text())


def test_assets_of_ones_own_are_copied():
    inputs = keras.Input((4,))
    own = Assets()
    model = keras.Model(inputs, layers.Dense(2)(own(inputs)))
    own.factor = 3.0
    quantized = fliqs_keras.apply(model, "INT16")
    fliqs_keras.calibrate(quantized, X)
    np.testing.assert_allclose(quantized(X), model(X), rtol=1e-2, atol=1e-1)


@keras.saving.register_keras_serializable("unusual_models_test")
class Cell(layers.Layer):
    """Has a dense layer in the loop of an RNN."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)
        self.state_size = self.output_size = 4

    def build(self, input_shape):
        self.dense.build((input_shape[0], input_shape[-1] + 4))

    def call(self, x, states, training=None):
        x = ops.concatenate([x, states[0]], axis=-1)
        state = ops.tanh(self.dense(x))
        return state, [state]


@keras.saving.register_keras_serializable("unusual_models_test")
class Sometimes(layers.Layer):
    """Has a dense layer in a condition."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3)

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, x):
        return ops.cond(ops.sum(x) > -1e9, lambda: self.dense(x), lambda: x)


@pytest.mark.tensorflow
@pytest.mark.parametrize("activations", ["search", None], ids=str)
@pytest.mark.parametrize(
    "build", [lambda: layers.RNN(Cell()), Sometimes], ids=["loop", "condition"]
)
def test_layers_in_loops_and_conditions_train(build, activations):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 3))
    outputs = layers.Dense(2)(build()(inputs))
    space = "INT8"
    if activations is None:
        space = fliqs_keras.SearchSpace("INT8", activations=None)
    model = fliqs_keras.apply(keras.Model(inputs, outputs), space)
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    x = np.random.default_rng(0).normal(size=(64, 5, 3)).astype("float32")
    history = model.fit(
        x, np.ones((64, *model.output_shape[1:])), epochs=8, verbose=0
    ).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]


def test_inputs_are_known_by_their_names():
    @keras.saving.register_keras_serializable("unusual_models_test")
    class Backwards(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.lstm = layers.LSTM(3, name="lstm")

        def call(self, x, training=None):
            zero = ops.zeros((ops.shape(x)[0], 3))
            return self.lstm(
                initial_state=[zero, zero], training=training, sequences=x
            )

    model = Backwards()
    x = np.random.default_rng(0).normal(size=(8, 5, 4)).astype("float32")
    model(x)
    model = fliqs_keras.apply(model, "INT8", inplace=True)
    fliqs_keras.calibrate(model, x)
    threshold = float(ops.convert_to_numpy(model.lstm.input_quantizer.range))
    assert threshold == pytest.approx(np.abs(x).max(), rel=0.2)


def test_a_stateful_model_of_a_fixed_batch_has_a_cost():
    inputs = keras.Input(batch_shape=(4, 5, 3))
    lstm = layers.LSTM(3, stateful=True)
    model = keras.Model(inputs, layers.Dense(2)(lstm(inputs)))
    quantized = fliqs_keras.apply(model, "INT8")
    x = np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")
    fliqs_keras.calibrate(quantized, x)
    quantized(x)
    states = [
        ops.convert_to_numpy(s)
        for layer in quantized.layers
        for s in getattr(layer, "states", [])
    ]
    # 5 steps of 4 gates of 3 units that read 3 inputs and 3 states.
    macs = 5 * 12 * 6 + 3 * 2
    assert fliqs_keras.BitOps()(quantized) == pytest.approx(64 * macs / 1e9)
    after = [
        ops.convert_to_numpy(s)
        for layer in quantized.layers
        for s in getattr(layer, "states", [])
    ]
    assert len(states) == 2
    np.testing.assert_array_equal(states, after)


def test_a_table_that_is_read_in_reverse_multiplies():
    table = layers.ReversibleEmbedding(50, 16, name="table")
    tokens = keras.Input((6,), dtype="int32")
    x = layers.Dense(16, name="dense")(table(tokens))
    model = keras.Model(tokens, table(x, reverse=True))
    macs = {
        row.path: row.macs
        for row in fliqs_keras.summary(
            fliqs_keras.apply(model, "INT8")
        ).quantized
    }
    assert macs == {"table": 6 * 16 * 50, "dense": 6 * 16 * 16}


@pytest.mark.tensorflow
def test_ids_are_not_quantized_with_every_tensor():
    inputs = keras.Input((3,), dtype="int32")
    ids = layers.Hashing(2000)(inputs)
    y = layers.Flatten()(layers.Embedding(2000, 2)(ids))
    model = keras.Model(inputs, layers.Dense(2)(y))
    quantized = fliqs_keras.apply(model, "INT16", every_tensor="INT16")
    x = np.random.default_rng(0).integers(9999, size=(16, 3)).astype("int32")
    fliqs_keras.calibrate(quantized, x)
    np.testing.assert_allclose(quantized(x), model(x), atol=1e-3)


def test_tokens_are_not_quantized_with_every_tensor():
    tokens = keras.Input((6,), dtype="int32")
    x = layers.Flatten()(layers.Embedding(1000, 4)(tokens))
    model = keras.Model(tokens, layers.Dense(2)(x))
    quantized = fliqs_keras.apply(model, "INT16", every_tensor="INT16")
    x = np.random.default_rng(0).integers(1000, size=(64, 6))
    fliqs_keras.calibrate(quantized, x)
    np.testing.assert_allclose(quantized(x), model(x), atol=1e-4)


def scale_class(factor):
    class Scale(layers.Layer):
        def call(self, x):
            return factor * x

    return Scale


def test_classes_of_one_name_are_told_apart():
    inputs = keras.Input((4,))
    x = layers.Dense(3)(scale_class(10.0)()(scale_class(2.0)()(inputs)))
    model = keras.Model(inputs, x)
    with pytest.raises(ValueError, match="two classes 'Scale'"):
        fliqs_keras.apply(model, "INT8")
    before = ops.convert_to_numpy(model(X))
    fliqs_keras.apply(model, "INT16", inplace=True)
    fliqs_keras.calibrate(model, X)
    np.testing.assert_allclose(model(X), before, rtol=1e-2, atol=1e-1)


def test_classes_that_are_not_registered_are_extracted():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, name="wide"),
            layers.Dense(2),
            scale_class(2.0)(),
        ]
    )
    width = fliqs_keras.nas.Width("wide", [4, 8])
    space = fliqs_keras.SearchSpace(["INT8"], architecture=width)
    model = fliqs_keras.apply(model, space)
    fliqs_keras.calibrate(model, X)
    fliqs_keras.FormatAssignment({"wide:width": 4}).apply_to(model)
    small = fliqs_keras.nas.extract(model)
    np.testing.assert_allclose(small(X), model(X), rtol=1e-5)


class OwnDense(layers.Dense):
    """A class that is not registered, as the next one."""


class OwnBlock(layers.Layer):
    def build(self, input_shape):
        self.dense = layers.Dense(3)
        self.dense.build(input_shape)

    def call(self, x):
        return self.dense(x)


def test_classes_that_are_not_registered_are_cloned(tmp_path):
    parts = [keras.Input((4,)), OwnDense(3), OwnBlock()]
    model = fliqs_keras.apply(keras.Sequential(parts), "INT8")
    fliqs_keras.calibrate(model, X)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert isinstance(clone.layers[0], OwnDense)
    np.testing.assert_array_equal(clone(X), model(X))
    # Classes that the caller names go first.
    model.save(tmp_path / "model.keras")
    newer = {
        "OwnDense": type("OwnDense", (OwnDense,), {}),
        "OwnBlock": OwnBlock,
    }
    loaded = keras.saving.load_model(tmp_path / "model.keras", newer)
    assert isinstance(loaded.layers[0], newer["OwnDense"])


@keras.saving.register_keras_serializable("unusual_models_test")
class Gated(layers.Dense):
    """Has a layer and a matrix besides what a dense layer has."""

    def build(self, input_shape):
        super().build(input_shape)
        self.gate = layers.Dense(self.units, name="gate")
        self.gate.build(input_shape)
        self.mixer = self.add_weight(shape=(4, 4), name="mixer")

    def call(self, x):
        return super().call(x @ self.mixer) * self.gate(x)


def test_matrices_within_a_quantized_layer_are_listed():
    inputs = keras.Input((4,))
    model = fliqs_keras.apply(
        keras.Model(inputs, Gated(3, name="gated")(inputs)), "INT8"
    )
    summary = fliqs_keras.summary(model)
    (row,) = summary.left_out
    assert summary.quantized[0].parameters == 4 * 3 + 3 + 3
    assert row.path == "gated" and "quantize config" in row.reason
    # The gate's kernel and the mixer.
    assert row.parameters == 4 * 3 + 4 * 4


@pytest.mark.parametrize(
    "equation, shape, macs",
    [("abc,cd->abd", (None, 6), 5 * 7 * 6), ("abc,c->ab", (None,), 5 * 7)],
)
def test_multiplications_of_einsums(equation, shape, macs):
    inputs = keras.Input((5, 7))
    outputs = layers.EinsumDense(equation, shape, name="einsum")(inputs)
    model = fliqs_keras.apply(keras.Model(inputs, outputs), "INT8")
    (row,) = fliqs_keras.summary(model).quantized
    assert row.macs == macs


def test_channels_of_subnormal_weights():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="d")])
    kernel = ops.convert_to_numpy(model.get_layer("d").kernel).copy()
    kernel[:, 1] = 1e-43
    model.get_layer("d").kernel.assign(kernel)
    quantized = fliqs_keras.apply(model, "INT8")
    fliqs_keras.calibrate(quantized, X)
    assert np.isfinite(ops.convert_to_numpy(quantized(X))).all()


def test_a_tensor_of_zeros_sets_no_threshold():
    inputs = keras.Input((4,))
    x = layers.Dense(8, kernel_initializer="zeros", name="zero")(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    model = fliqs_keras.apply(model, "INT8")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 4)).astype("float32")
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    model.fit(x, x @ rng.normal(size=(4, 3)), epochs=10, verbose=0)
    quantizer = model.get_layer("head").input_quantizer
    assert quantizer.shares[0] > 0.7


@pytest.mark.tensorflow
@pytest.mark.parametrize("controller", ["reinforce", "sensitivity"])
def test_layers_that_are_never_trained_need_calibration(controller):
    @keras.saving.register_keras_serializable("unusual_models_test")
    class Transfer(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.base = layers.Dense(8, name="base")
            self.head = layers.Dense(1, name="head")

        def call(self, x, training=None):
            return self.head(self.base(x, training=False), training=training)

    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4)).astype("float32")
    y = x.sum(axis=1, keepdims=True)
    for is_calibrated in (False, True):
        model = Transfer()
        model(x)
        fliqs_keras.apply(model, ["INT4", "INT8"], inplace=True)
        model.compile("adam", "mse")
        if is_calibrated:
            fliqs_keras.calibrate(model, x)
        search = fliqs_keras.FormatSearch(
            ("INT4", 1.5), data=(x, y), controller=controller, seed=0
        )

        def fit(model=model, search=search):
            return model.fit(
                x, y, batch_size=8, epochs=4, verbose=0, callbacks=[search]
            )

        if is_calibrated:
            assert np.isfinite(fit().history["loss"]).all()
        else:
            with pytest.raises(ValueError, match="calibrate"):
                fit()
            assert len(search.history) == 1


@keras.saving.register_keras_serializable(package="tests")
class OwnStep(keras.Model):
    """As those who write another `train_step` make functional models."""

    def train_step(self, *args, **kwargs):
        return super().train_step(*args, **kwargs)


class OwnConstructor(OwnStep):
    def __init__(self, units):
        inputs = keras.Input((4,))
        x = layers.Dense(units, name="wide")(inputs)
        super().__init__(inputs, layers.Dense(2, name="head")(x))


def build_branches(model_class):
    inputs = keras.Input((4,))
    x = layers.Dense(8, activation="relu", name="left")(inputs)
    y = layers.Dense(8, name="right")(inputs)
    outputs = layers.Dense(2, name="head")(layers.Add(name="sum")([x, y]))
    keras.utils.set_random_seed(0)
    return keras.models.clone_model(model_class(inputs, outputs))


@pytest.mark.parametrize(
    "space, every_tensor",
    [
        (["INT4", "INT8"], "INT8"),
        (fliqs_keras.SearchSpace(["INT4", "INT8"], shared_inputs=True), None),
        (
            fliqs_keras.SearchSpace(
                ["INT4", "INT8"],
                architecture=fliqs_keras.nas.Width("left", [4, 8]),
            ),
            None,
        ),
    ],
    ids=["every_tensor", "shared_inputs", "sizes"],
)
def test_a_functional_model_of_ones_own_class_has_a_graph(
    space, every_tensor, tmp_path
):
    plain, own = (
        fliqs_keras.apply(build_branches(c), space, every_tensor=every_tensor)
        for c in (keras.Model, OwnStep)
    )
    assert isinstance(own, OwnStep)
    own.set_weights(plain.get_weights())
    fliqs_keras.calibrate(plain, X)
    fliqs_keras.calibrate(own, X)
    assignment = fliqs_keras.FormatAssignment.from_model(plain)
    models = plain, own
    if "left:width" in assignment:
        # Tensors have one size each once sizes are decided.
        models = [fliqs_keras.nas.extract(model) for model in models]
    peaks = [fliqs_keras.ActivationBytes()(model) for model in models]
    assert peaks[0] == peaks[1] > 0
    np.testing.assert_array_equal(own(X), plain(X))
    assert fliqs_keras.FormatAssignment.from_model(own) == assignment
    own.save(tmp_path / "own.keras")
    loaded = keras.saving.load_model(tmp_path / "own.keras")
    assert isinstance(loaded, OwnStep)
    np.testing.assert_array_equal(loaded(X), own(X))
    if "left:width" in assignment:
        small = dict(assignment) | {"left:width": 4}
        fliqs_keras.FormatAssignment(small).apply_to(own)
        extracted = fliqs_keras.nas.extract(own)
        assert isinstance(extracted, OwnStep)
        np.testing.assert_allclose(extracted(X), own(X), rtol=1e-5)


@keras.saving.register_keras_serializable(package="tests")
class OwnSequential(keras.Sequential):
    pass


def test_sizes_of_a_sequential_model_of_ones_own_class():
    keras.utils.set_random_seed(0)
    model = OwnSequential(
        [
            keras.Input((4,)),
            layers.Dense(8, activation="relu", name="wide"),
            layers.Dense(2, name="head"),
        ]
    )
    width = fliqs_keras.nas.Width("wide", [4, 8])
    space = fliqs_keras.SearchSpace(["INT8"], architecture=width)
    model = fliqs_keras.apply(model, space)
    fliqs_keras.calibrate(model, X)
    fliqs_keras.FormatAssignment({"wide:width": 4}).apply_to(model)
    small = fliqs_keras.nas.extract(model)
    assert isinstance(small, OwnSequential)
    np.testing.assert_allclose(small(X), model(X), rtol=1e-5)


def test_sizes_of_a_class_with_a_constructor_of_its_own_are_refused():
    width = fliqs_keras.nas.Width("wide", [4, 8])
    space = fliqs_keras.SearchSpace(["INT8"], architecture=width)
    model = OwnConstructor(8)
    with pytest.raises(ValueError, match="of class OwnConstructor"):
        fliqs_keras.apply(model, space, inplace=True)
    model = keras.Model(model.inputs, model.outputs)
    names = fliqs_keras.FormatAssignment.from_model(
        fliqs_keras.apply(model, space)
    )
    assert names["wide:width"] == 8


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
