"""One quantizer for each tensor: where they stand, and what they make."""

import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

import fliqs_keras
from fliqs_keras.quantize_configs import ACTIVATIONS
from fliqs_keras.quantized_layers import quantized_layers
from fliqs_keras.tensor_quantizers import place_tensor_quantizers


def has_weights(operation):
    return isinstance(operation, layers.Dense | layers.Conv2D)


def places(model):
    """The layers that quantize their input, and those that do their output."""
    found = place_tensor_quantizers(model, has_weights)
    named = [(x.name, found[id(x)]) for x in model.layers if id(x) in found]
    return (
        [name for name, place in named if place.input],
        [name for name, place in named if place.output],
    )


def conv(name, **kwargs):
    return layers.Conv2D(4, 3, padding="same", name=name, **kwargs)


def test_what_folds_is_quantized_at_its_end():
    x = image = keras.Input((8, 8, 4))
    x = layers.BatchNormalization(name="a_norm")(conv("a")(x))
    x = layers.ReLU(name="a_relu")(x)
    x = layers.BatchNormalization(name="b_norm")(conv("b")(x))
    x = layers.Activation("relu6", name="c_relu")(conv("c")(x))
    model = keras.Model(image, layers.Dense(2, name="head")(x))
    assert places(model) == (["a"], ["a_relu", "b_norm", "c_relu", "head"])


@pytest.mark.parametrize(
    "follower",
    [
        layers.LeakyReLU(name="other"),
        layers.ReLU(negative_slope=0.1, name="other"),
        layers.ReLU(max_value=5, name="other"),
        layers.Activation("tanh", name="other"),
    ],
    ids=["leaky", "sloped", "bounded", "tanh"],
)
def test_other_activations_read_a_quantized_tensor(follower):
    image = keras.Input((8, 8, 4))
    model = keras.Model(image, follower(conv("a")(image)))
    assert places(model) == (["a"], ["a", "other"])


def test_a_tensor_that_several_read_is_quantized_before_them():
    image = keras.Input((8, 8, 4))
    x = conv("a")(image)
    x = layers.Add(name="sum")([x, layers.ReLU(name="relu")(x)])
    x = layers.ReLU(name="sum_relu")(x)
    model = keras.Model(image, layers.GlobalAveragePooling2D(name="pool")(x))
    assert places(model) == (["a"], ["a", "relu", "sum_relu", "pool"])


def test_layers_that_move_values_need_no_quantizer():
    image = keras.Input((8, 8, 4))
    x = layers.ZeroPadding2D(name="pad")(image)
    x = layers.MaxPooling2D(name="pool")(conv("a", activation="relu")(x))
    x = layers.Dropout(0.5)(layers.UpSampling2D(name="repeated")(x))
    x = layers.Flatten(name="flat")(x)
    model = keras.Model(image, layers.Dense(2, name="head")(x))
    assert places(model) == (["a"], ["a", "head"])


def test_images_that_are_interpolated_are_new_values():
    image = keras.Input((8, 8, 4))
    grown = layers.UpSampling2D(interpolation="bilinear", name="grown")
    x = conv("b")(grown(conv("a")(image)))
    assert places(keras.Model(image, x)) == (["a"], ["a", "grown", "b"])


def test_what_is_no_single_layer_leaves_its_readers_to_quantize():
    image = keras.Input((8, 8, 4))
    x = ops.sin(conv("a")(image))
    x = layers.TimeDistributed(layers.Dense(3, name="inner"))(conv("b")(x))
    x = layers.Dense(2, name="head")(x)
    model = keras.Model(image, x)
    assert places(model) == (["a", "b", "head"], ["a", "b", "head"])


def test_layers_in_nested_models_are_seen():
    inner = keras.Sequential([conv("inner"), layers.ReLU(name="relu")])
    image = keras.Input((8, 8, 4))
    model = keras.Model(image, conv("outer")(inner(image)))
    found = place_tensor_quantizers(model, has_weights)
    assert tuple(found[id(inner.layers[0])]) == (True, False)
    assert tuple(found[id(inner.layers[1])]) == (False, True)
    assert tuple(found[id(model.layers[-1])]) == (False, True)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def test_a_model_without_a_graph_is_refused():
    model = Subclassed()
    model(np.ones((1, 3), "float32"))
    with pytest.raises(ValueError, match="functional or sequential"):
        fliqs_keras.apply(model, "INT4", every_tensor="INT8", inplace=True)
    assert not quantized_layers(model)


def residual_model():
    x = image = keras.Input((8, 8, 3), name="image")
    x = layers.BatchNormalization()(conv("stem", use_bias=False)(x))
    x = layers.ReLU()(x)
    y = layers.BatchNormalization()(conv("branch", use_bias=False)(x))
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(layers.MaxPooling2D()(x))
    return keras.Model(image, layers.Dense(3, name="head")(x))


@pytest.fixture(scope="module")
def quantized():
    keras.utils.set_random_seed(0)
    model = fliqs_keras.apply(
        residual_model(), ["INT4", "INT8"], every_tensor="INT8"
    )
    fliqs_keras.calibrate(model, IMAGES)
    return model


IMAGES = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")


def test_tensors_are_one_decision_that_is_fixed(quantized):
    assignment = fliqs_keras.FormatAssignment.from_model(quantized)
    assert list(assignment) == ["stem", ACTIVATIONS, "branch", "head"]
    assert assignment[ACTIVATIONS].name == "INT8"
    for names in (["INT4"] * 3, ["INT8", "INT4", "INT8"]):
        chosen = dict(zip(["stem", "branch", "head"], names, strict=True))
        fliqs_keras.FormatAssignment(chosen).apply_to(quantized)
        now = fliqs_keras.FormatAssignment.from_model(quantized)
        assert {k: f.name for k, f in now.items()} == {
            **chosen,
            ACTIVATIONS: "INT8",
        }


def test_cost_counts_the_format_of_the_tensor(quantized):
    cost = fliqs_keras.BitOps()
    macs = {"stem": 64 * 9 * 3 * 4, "branch": 64 * 9 * 4 * 4, "head": 4 * 3}
    chosen = {"stem": "INT8", "branch": "INT4", "head": "INT4"}
    expected = 8 * (8 * macs["stem"] + 4 * macs["branch"] + 4 * macs["head"])
    assert cost(quantized, chosen) * 1e9 == pytest.approx(expected)


def test_weights_alone_meet_inputs_of_32_bits():
    x = keras.Input((4,))
    config = fliqs_keras.SwitchableQuantizeConfig(quantize_input=False)
    model = fliqs_keras.apply(
        keras.Model(x, layers.Dense(2)(x)),
        "INT4",
        quantize_configs={layers.Dense: config},
    )
    assert fliqs_keras.BitOps()(model) * 1e9 == pytest.approx(8 * 4 * 32)


def test_an_assignment_says_what_tensors_take(quantized):
    assignment = fliqs_keras.FormatAssignment.from_model(quantized)
    again = fliqs_keras.apply(residual_model(), assignment)
    assert fliqs_keras.FormatAssignment.from_model(again) == assignment


def test_a_saved_model_quantizes_the_same_tensors(quantized, tmp_path):
    quantized.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded(IMAGES), quantized(IMAGES), rtol=1e-5, atol=1e-5
    )


def test_a_search_chooses_weights_alone(quantized):
    keras.utils.set_random_seed(0)
    model = fliqs_keras.apply(
        residual_model(), ["INT4", "INT8"], every_tensor="INT8"
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    labels = np.arange(64) % 3
    search = fliqs_keras.FormatSearch(("INT4", 1.5), data=(IMAGES, labels))
    model.fit(IMAGES, labels, batch_size=8, epochs=2, callbacks=[search])
    assert search.assignment[ACTIVATIONS].name == "INT8"
    assert fliqs_keras.BitOps()(model) <= search.target * (1 + 1e-9)


@pytest.mark.tensorflow
@pytest.mark.parametrize("weights", ["INT8", "INT4"])
def test_a_file_computes_in_integers_throughout(weights, quantized, tmp_path):
    names = ["stem", "branch", "head"]
    fliqs_keras.FormatAssignment(dict.fromkeys(names, weights)).apply_to(
        quantized
    )
    report = fliqs_keras.export_tflite(
        quantized,
        tmp_path / "model.tflite",
        mode="integer",
        integer_io=True,
        weight_storage="fast",
        verify_data=IMAGES,
    )
    assert {row.kernel for row in report.layers} == {"integer"}
    assert report.verification.runs["xnnpack"][0].argmax_agreement >= 0.98


class Derived(fliqs_keras.SwitchableQuantizeConfig):
    def __init__(self, *, formats=(), decision=None):
        super().__init__(formats=formats, decision=decision)

    def get_config(self):
        return {"formats": self.formats, "decision": self.decision}


def test_a_config_that_cannot_be_told_is_refused():
    with pytest.raises(ValueError, match="activation_format"):
        Derived().with_activations(
            input=True, output=False, format=fliqs_keras.parse_format("INT8")
        )


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
