"""What `apply` quantizes, leaves out, refuses, and does to the model."""

import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

import fliqs_keras
from fliqs_keras.quantized_layers import quantized_layers
from tests.testing import assert_equal, run, set_all


def make_x(*shape, seed=0):
    values = np.random.default_rng(seed).normal(size=shape)
    return values.astype("float32")


def build_net():
    x = inputs = keras.Input((4,))
    for name in ("stem", "body_1", "body_2"):
        x = layers.Dense(4, name=name)(x)
    x = layers.Reshape((2, 2))(x)
    x = layers.MultiHeadAttention(1, 2, name="attention")(x, x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


DENSE = {"stem", "body_1", "body_2", "head"}
ATTENTION = {
    f"attention/{n}" for n in ("query", "key", "value", "attention_output")
}
SELECTIONS = {
    "all": ({}, DENSE | ATTENTION),
    "exclude_name": ({"exclude": "head"}, DENSE - {"head"} | ATTENTION),
    "exclude_pattern": (
        {"exclude": ["body_*", "head"]},
        {"stem"} | ATTENTION,
    ),
    "exclude_container": ({"exclude": "attention"}, DENSE),
    "exclude_class": (
        {"exclude": keras.layers.MultiHeadAttention},
        DENSE,
    ),
    "include_class": ({"include": layers.Dense}, DENSE),
    "include_function": (
        {"include": lambda path, layer: path.endswith("y")},
        {"attention/key", "attention/query"},
    ),
    "include_and_exclude": (
        {"include": "body_*", "exclude": "body_1"},
        {"body_2"},
    ),
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_search_space_selects_layers(name):
    selectors, expected = SELECTIONS[name]
    space = fliqs_keras.SearchSpace(["INT4", "INT8"], **selectors)
    model = fliqs_keras.apply(build_net(), space)
    assert set(fliqs_keras.FormatAssignment.from_model(model)) == expected
    left_out = {row.path for row in fliqs_keras.summary(model).left_out}
    assert left_out == (DENSE | ATTENTION) - expected


def test_formats_by_pattern():
    model = fliqs_keras.apply(
        build_net(),
        {"attention": "E4M3", "stem": "INT8", "body_*": ["INT2", "INT4"]},
    )
    formats = {
        layer.quantize_config.decision: [
            f.name for f in layer.quantize_config.formats
        ]
        for layer in quantized_layers(model)
    }
    assert formats == {
        "stem": ["INT8"],
        "body_1": ["INT2", "INT4"],
        "body_2": ["INT2", "INT4"],
        **dict.fromkeys(ATTENTION, ["E4M3"]),
    }


def test_assignment_is_a_search_space():
    assignment = fliqs_keras.FormatAssignment({"stem": "INT2", "head": "E4M3"})
    model = fliqs_keras.apply(build_net(), assignment)
    assert fliqs_keras.FormatAssignment.from_model(model) == assignment


@pytest.mark.parametrize(
    "space, message",
    [
        ({"formats": "INT4", "exclude": "hed"}, "'hed', which selects none"),
        ({"formats": "INT4", "include": layers.LSTM}, "selects none"),
        ({"formats": {"stem": "INT4", "hed": "INT8"}}, "selects none"),
        ({"formats": "INT4", "exclude": "*"}, "leaves some layer"),
        ({"formats": {}}, "at least one layer"),
        ({"formats": "INT4", "include": [3]}, "patterns, layer classes"),
    ],
    ids=["name", "class", "formats", "nothing_left", "empty", "no_selector"],
)
def test_search_space_is_refused(space, message):
    with pytest.raises(ValueError, match=message) as error:
        fliqs_keras.apply(build_net(), fliqs_keras.SearchSpace(**space))
    assert "Received" in str(error.value)


def test_shared_layer_is_one_decision_and_counts_each_use():
    a, b = keras.Input((4,)), keras.Input((4,))
    shared = layers.Dense(3, name="shared")
    model = keras.Model([a, b], [shared(a), shared(shared(b)[:, :1] * a)])
    model = fliqs_keras.apply(model, "INT8")
    assert list(fliqs_keras.FormatAssignment.from_model(model)) == ["shared"]
    # Three uses of 4 x 3 weights, at 8 x 8 bits.
    assert fliqs_keras.BitOps()(model) == pytest.approx(3 * 12 * 64 / 1e9)


def test_inputs_and_outputs_keep_their_structure():
    inputs = {
        "a": keras.Input((4,), name="a"),
        "b": keras.Input((2,), name="b"),
    }
    outputs = {
        "p": layers.Dense(3, name="p")(inputs["a"]),
        "q": layers.Dense(2, name="q")(inputs["b"]),
    }
    model = fliqs_keras.apply(keras.Model(inputs, outputs), "INT8")
    x = {"a": make_x(8, 4), "b": make_x(8, 2)}
    fliqs_keras.calibrate(model, [x])
    y = model.predict(x, verbose=0)
    assert {k: v.shape for k, v in y.items()} == {"p": (8, 3), "q": (8, 2)}


def test_inplace_quantizes_the_model_itself():
    model = build_net()
    x = make_x(8, 4)
    float_outputs = model.predict(x, verbose=0)
    assert fliqs_keras.apply(model, "INT2", inplace=True) is model
    assert isinstance(model.get_layer("stem"), layers.Dense)
    fliqs_keras.calibrate(model, x)
    # What `predict` traced before must not be used any more.
    assert np.abs(model.predict(x, verbose=0) - float_outputs).max() > 1e-3


def test_failure_leaves_the_model_as_it_was():
    model = build_net()
    x = make_x(8, 4)
    before = run(model, x)
    wrong = fliqs_keras.SwitchableQuantizeConfig(["no_such_weight"])
    with pytest.raises(ValueError, match="no_such_weight"):
        fliqs_keras.apply(
            model, "INT2", quantize_configs={"head": wrong}, inplace=True
        )
    assert quantized_layers(model) == []
    assert_equal(run(model, x), before)


class WithoutConfig(keras.Model):
    """A subclassed model as many are written: it cannot be copied."""

    def __init__(self, layer):
        super().__init__()
        self.dense = layer

    def call(self, x):
        return self.dense(x)


def test_model_that_cannot_be_copied_is_quantized_in_place():
    model = WithoutConfig(layers.Dense(2, name="dense"))
    x = make_x(8, 4)
    model(x)
    with pytest.raises(ValueError, match="inplace=True"):
        fliqs_keras.apply(model, "INT2")
    fliqs_keras.apply(model, "INT2", inplace=True)
    fliqs_keras.calibrate(model, x)
    assert list(fliqs_keras.FormatAssignment.from_model(model)) == ["dense"]


def test_frozen_layers_stay_frozen():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="deep")])
    model = keras.Sequential([keras.Input((4,)), inner, layers.Dense(2)])
    inner.trainable = False
    quantized = fliqs_keras.apply(model, "INT4")
    assert len(quantized.trainable_weights) == 2
    deep = quantized.layers[0].get_layer("deep")
    before = ops.convert_to_numpy(deep.kernel)
    quantized.compile("sgd", "mse")
    quantized.fit(make_x(8, 4), make_x(8, 2), verbose=0)
    np.testing.assert_array_equal(ops.convert_to_numpy(deep.kernel), before)


def test_frozen_weights_stay_frozen():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="deep")])
    model = keras.Sequential([keras.Input((4,)), inner, layers.Dense(2)])
    inner.layers[0].kernel.trainable = False
    model.layers[1].bias.trainable = False
    quantized = fliqs_keras.apply(model, "INT4")
    trained = [weight.name for weight in quantized.trainable_weights]
    assert trained == ["bias", "kernel"]
    deep = quantized.layers[0].get_layer("deep")
    before = ops.convert_to_numpy(deep.kernel)
    quantized.compile("sgd", "mse")
    quantized.fit(make_x(8, 4), make_x(8, 2), verbose=0)
    np.testing.assert_array_equal(ops.convert_to_numpy(deep.kernel), before)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_weights_are_quantized_from_their_float32_master(policy):
    inputs = keras.Input((64,))
    layer = layers.Dense(8, use_bias=False, dtype=policy, name="dense")
    model = keras.Model(inputs, layer(inputs))
    quantized = fliqs_keras.apply(model, "INT8")
    [dense] = quantized_layers(quantized)
    dense.input_quantizer.set_format(None)
    x = make_x(16, 64)
    [(kernel, quantizer)] = dense.quantized_weights()
    threshold = ops.convert_to_numpy(quantizer.thresholds_for(kernel))[0]
    rounded = fliqs_keras.round_to_format(
        ops.convert_to_numpy(kernel), "INT8", threshold
    )
    # Quantized from float16 or bfloat16 values, many codes would differ.
    model.get_layer("dense").kernel.assign(rounded)
    assert_equal(run(quantized, x), run(model, x))
    assert quantized.outputs[0].dtype == layer.compute_dtype


def test_integer_inputs_are_quantized_as_numbers():
    inputs = keras.Input((4,), dtype="int32")
    dense = layers.Dense(1, use_bias=False, kernel_initializer="ones")
    model = fliqs_keras.apply(keras.Model(inputs, dense(inputs)), "INT2")
    [layer] = quantized_layers(model)
    layer.input_quantizer.set_thresholds(np.float32([2.5]))
    [threshold] = np.asarray(layer.input_quantizer.thresholds_for(None))
    layer.weight_quantizers[0].set_format(None)
    [y] = run(model, np.array([[5, 0, 0, 0]], "int32"))
    # Not an integer, so a result that is cut to one is another.
    assert threshold == 2.5
    np.testing.assert_allclose(y, [[threshold]], rtol=1e-6)


@pytest.mark.tensorflow
def test_time_distributed_over_a_dynamic_axis_trains():
    inputs = keras.Input((None, 4))
    wrapper = layers.TimeDistributed(layers.Dense(3))
    model = fliqs_keras.apply(keras.Model(inputs, wrapper(inputs)), "INT8")
    model.compile("sgd", "mse", jit_compile=False)
    x, y = make_x(8, 5, 4), make_x(8, 5, 3)
    history = model.fit(x, y, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    [layer] = quantized_layers(model)
    assert layer.input_quantizer.is_calibrated


def test_bidirectional_does_not_reach_past_the_quantizers(tmp_path):
    inputs = keras.Input((5, 4))
    wrapper = layers.Bidirectional(layers.GRU(3))
    model = fliqs_keras.apply(keras.Model(inputs, wrapper(inputs)), "INT8")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        assert [v.use_cudnn for v in quantized_layers(each)] == [False] * 2


def test_training_in_one_format_needs_no_callback():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    model = fliqs_keras.apply(model, "INT4")
    x = make_x(256, 4)
    y = x @ np.float32([[1.0], [-2.0], [0.5], [1.5]])
    model.compile(keras.optimizers.Adam(0.05), "mse")
    history = model.fit(x, y, epochs=20, verbose=0).history["loss"]
    assert history[-1] < 0.1 * history[0]
    # What was learnt is on the grid: seven steps to each side.
    [(kernel, quantizer)] = quantized_layers(model)[0].quantized_weights()
    kernel = ops.convert_to_tensor(kernel)
    rounded = quantizer(kernel, training=False)
    codes = ops.convert_to_numpy(rounded) / quantizer.scale(kernel)
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-5)
    assert np.abs(codes).max() <= 7.0 + 1e-5


def dense_model():
    return keras.Sequential([keras.Input((4,)), layers.Dense(2, name="d")])


@pytest.mark.parametrize("name", ["lora", "int8"])
def test_layers_that_are_not_plain_float_are_refused(name):
    model = dense_model()
    if name == "lora":
        model.get_layer("d").enable_lora(2)
    else:
        model.get_layer("d").quantize("int8")
    with pytest.raises(ValueError, match="'d'"):
        fliqs_keras.apply(model, "INT4", inplace=True)


def test_adapters_are_refused_before_they_are_made():
    model = fliqs_keras.apply(dense_model(), "INT8")
    layer = model.get_layer("d")
    with pytest.raises(ValueError, match="before `apply`"):
        layer.enable_lora(2)
    assert not layer.lora_enabled and len(layer.trainable_weights) == 2


def test_adapters_are_merged_by_the_way_that_the_error_tells(tmp_path):
    model = dense_model()
    layer = model.get_layer("d")
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(np.ones(layer.lora_kernel_b.shape))
    model.save_weights(tmp_path / "merged.weights.h5")
    plain = dense_model()
    plain.load_weights(tmp_path / "merged.weights.h5")
    merged = fliqs_keras.apply(plain, "INT8").get_layer("d").kernel
    np.testing.assert_allclose(merged, layer.kernel, rtol=1e-6)


def test_attention_masks_and_scores_still_work():
    inputs = keras.Input((5, 4))
    attention = layers.MultiHeadAttention(2, 3)
    outputs, scores = attention(
        inputs, inputs, return_attention_scores=True, use_causal_mask=True
    )
    model = fliqs_keras.apply(keras.Model(inputs, [outputs, scores]), "INT8")
    x = make_x(8, 5, 4)
    fliqs_keras.calibrate(model, x)
    _, scores = run(model, x)
    np.testing.assert_array_equal(np.triu(scores, 1), 0)
    np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-5)


def test_switched_formats_reach_every_layer():
    model = fliqs_keras.apply(build_net(), ["INT2", "INT8"])
    fliqs_keras.calibrate(model, make_x(8, 4))
    set_all(model, "INT2")
    for layer in quantized_layers(model):
        assert {q.format.name for q in layer.quantizers()} == {"INT2"}


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
