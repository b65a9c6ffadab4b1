"""Saving, loading, cloning, copying: the same outputs, the same formats."""

import copy
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import fliqs_keras
from fliqs_keras import quantize_registry
from fliqs_keras.quantized_layers import quantized_layers
from tests.testing import assert_equal, run, set_all


@keras.saving.register_keras_serializable(package="fliqs_keras_tests")
class Lazy(layers.Layer):
    """Builds its sublayers only when it is called, as many layers do."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.attention = layers.MultiHeadAttention(1, 2)
        self.dense = [layers.Dense(units), layers.Dense(units)]

    def call(self, x):
        x = self.attention(x, x)
        for dense in self.dense:
            x = dense(x)
        return x

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(package="fliqs_keras_tests")
class Classifier(keras.Model):
    """A subclassed model, whose layers are made by its constructor."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.block = Lazy(4)
        self.recurrent = layers.Bidirectional(layers.GRU(3))
        self.head = layers.Dense(units)

    def call(self, x):
        return self.head(self.recurrent(self.block(x)))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def make_x(seed=0):
    values = np.random.default_rng(seed).normal(size=(8, 5, 4))
    return values.astype("float32")


def build_functional():
    inputs = keras.Input((5, 4))
    x = layers.MultiHeadAttention(2, 3)(inputs, inputs)
    x = layers.BatchNormalization()(x)
    x = layers.TimeDistributed(layers.Dense(4))(x)
    x = layers.Bidirectional(layers.LSTM(3))(x)
    return keras.Model(inputs, layers.Dense(2)(x))


def build_subclassed():
    model = Classifier(2)
    model(make_x())
    return model


KINDS = {"functional": build_functional, "subclassed": build_subclassed}


def quantize(model):
    """Quantizes; every decision gets another format than its neighbours."""
    model = fliqs_keras.apply(model, ["INT2", "INT4", "E4M3"])
    fliqs_keras.calibrate(model, make_x())
    names = list(fliqs_keras.FormatAssignment.from_model(model))
    formats = ["INT2", "INT4", "E4M3"]
    fliqs_keras.FormatAssignment(
        {name: formats[i % 3] for i, name in enumerate(names)}
    ).apply_to(model)
    return model


def save_and_load(model, path):
    model.save(path / "model.keras")
    return keras.saving.load_model(path / "model.keras")


def clone(model, path):
    return give_weights(keras.models.clone_model(model), model)


def from_config(model, path):
    return give_weights(type(model).from_config(model.get_config()), model)


def give_weights(other, model):
    if not other.built:
        other.build_from_config(model.get_build_config())
    other.set_weights(model.get_weights())
    return other


def deep_copy(model, path):
    return copy.deepcopy(model)


def weights_file(model, path):
    model.save_weights(path / "model.weights.h5")
    build = KINDS[
        "subclassed" if isinstance(model, Classifier) else "functional"
    ]
    other = fliqs_keras.apply(build(), ["INT2", "INT4", "E4M3"])
    other.load_weights(path / "model.weights.h5")
    return other


def tensorflow_checkpoint(model, path):
    import tensorflow as tf

    checkpoint = tf.train.Checkpoint(model=model).save(path / "checkpoint")
    other = from_config(model, path)
    set_all(other, "INT4")
    tf.train.Checkpoint(model=other).restore(checkpoint).assert_consumed()
    return other


WAYS = {
    "save_and_load": save_and_load,
    "clone_model": clone,
    "from_config": from_config,
    "deepcopy": deep_copy,
    "weights_file": weights_file,
    "checkpoint": tensorflow_checkpoint,
}


# A TensorFlow checkpoint of a Keras 3 model, float ones included, leaves out
# layers that stand in a list, as in the subclassed model.
COPIES = [
    (way, kind)
    for way in WAYS
    for kind in KINDS
    if (way, kind) != ("checkpoint", "subclassed")
]


@pytest.mark.parametrize(
    "way, kind",
    [
        pytest.param(
            way,
            kind,
            id=f"{way}-{kind}",
            marks=[pytest.mark.tensorflow] if way == "checkpoint" else [],
        )
        for way, kind in COPIES
    ],
)
# Keras says so of every layer that is built by its first call.
@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called:UserWarning")
def test_copy_is_the_same(way, kind, tmp_path):
    model = quantize(KINDS[kind]())
    x = make_x(1)
    expected = run(model, x)
    other = WAYS[way](model, tmp_path)
    assert other is not model
    assert_equal(run(other, x), expected)
    assignment = fliqs_keras.FormatAssignment.from_model(model)
    assert len(set(assignment.values())) == 3
    assert list(
        fliqs_keras.FormatAssignment.from_model(other).values()
    ) == list(assignment.values())
    # The thresholds of the formats that are not in use came along, too.
    for number_format in ("INT2", "INT4", "E4M3"):
        set_all(model, number_format)
        set_all(other, number_format)
        assert_equal(run(other, x), run(model, x))


@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called:UserWarning")
def test_part_of_a_subclassed_model_is_saved_quantized(tmp_path):
    # Of one that was loaded: the layers in it must have become containers, too.
    model = save_and_load(quantize(build_subclassed()), tmp_path)
    inputs = keras.Input((5, 4))
    part = keras.Model(inputs, model.block(inputs))
    loaded = save_and_load(part, tmp_path)
    assert len(quantized_layers(loaded)) == 6
    assert_equal(run(loaded, make_x()), run(part, make_x()))


def test_loading_needs_the_import_and_nothing_else(tmp_path):
    model = quantize(build_functional())
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", make_x())
    script = (
        "import sys, fliqs_keras, keras, numpy as np\n"
        "folder = sys.argv[1]\n"
        "model = keras.saving.load_model(folder + '/model.keras')\n"
        "y = model(np.load(folder + '/x.npy'), training=False)\n"
        "np.save(folder + '/y.npy', np.asarray(y))\n"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True)
    assert_equal([np.load(tmp_path / "y.npy")], run(model, make_x()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called:UserWarning")
@pytest.mark.filterwarnings("ignore:Skipping nested container:UserWarning")
def test_float_weights_are_not_loaded_into_a_quantized_model(kind, tmp_path):
    model = KINDS[kind]()
    model.save_weights(tmp_path / "float.weights.h5")
    quantized = fliqs_keras.apply(model, "INT4")
    with pytest.raises(ValueError, match="call `apply` on that"):
        quantized.load_weights(tmp_path / "float.weights.h5")


@keras.saving.register_keras_serializable(package="fliqs_keras_tests")
class Matrix(layers.Layer):
    """A layer with a raw weight, whose class may be registered later."""

    def build(self, input_shape):
        self.matrix = self.add_weight(shape=(input_shape[-1], 3))

    def call(self, x):
        return keras.ops.matmul(x, self.matrix)


def test_file_older_than_a_registration_says_so(tmp_path, monkeypatch):
    inputs = keras.Input((4,))
    x = Matrix(name="matrix")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(x))
    model = fliqs_keras.apply(model, "INT4")
    [before] = fliqs_keras.summary(model).left_out
    assert before.reason == "no quantize config is registered for Matrix"
    model.save(tmp_path / "model.keras")
    configs = dict(quantize_registry._CONFIGS)
    monkeypatch.setattr(quantize_registry, "_CONFIGS", configs)
    fliqs_keras.register_quantize_config(
        Matrix, fliqs_keras.SwitchableQuantizeConfig(["matrix"])
    )
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    [after] = fliqs_keras.summary(loaded).left_out
    assert after.path == "matrix"
    assert after.reason.startswith("was not quantized when `apply` was called")


def test_file_of_another_layout_is_refused(tmp_path, monkeypatch):
    model = quantize(build_functional())
    model.save(tmp_path / "model.keras")
    build = layers.MultiHeadAttention.build

    def build_with_more(self, query_shape, value_shape, key_shape=None):
        self.added = layers.LayerNormalization()
        self.added.build(query_shape)
        build(self, query_shape, value_shape, key_shape)

    monkeypatch.setattr(layers.MultiHeadAttention, "build", build_with_more)
    with pytest.raises(ValueError, match="the sublayers it was saved with"):
        keras.saving.load_model(tmp_path / "model.keras")


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
