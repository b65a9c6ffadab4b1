"""Quantize configs as the way in: custom layers, tfmot's interface, outputs."""

import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

import fliqs_keras
from fliqs_keras import _tfmot, quantize_registry
from fliqs_keras.quantized_layers import quantized_layers
from tests.backends import IS_TENSORFLOW
from tests.testing import assert_equal, run, set_all


@keras.saving.register_keras_serializable(package="fliqs_keras_tests")
class Mix(layers.Layer):
    """A layer with a raw weight."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        shape = (input_shape[-1], self.units)
        self.mixer = self.add_weight(name="mixer", shape=shape)

    def call(self, x):
        return ops.matmul(x, self.mixer)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class MixToo(Mix):
    """A derived class, not registered with Keras."""


MIX_CONFIG = fliqs_keras.SwitchableQuantizeConfig(["mixer"])


@pytest.fixture
def registered_mix(monkeypatch):
    # The registry is as it was, afterwards.
    configs = dict(quantize_registry._CONFIGS)
    monkeypatch.setattr(quantize_registry, "_CONFIGS", configs)
    fliqs_keras.register_quantize_config(Mix, MIX_CONFIG)


def build_net(mix=Mix):
    inputs = keras.Input((4,))
    x = mix(3, name="mix")(inputs)
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


def make_x(count=8):
    values = np.random.default_rng(0).normal(size=(count, 4))
    return values.astype("float32")


def decisions(model):
    return list(fliqs_keras.FormatAssignment.from_model(model))


@pytest.mark.parametrize("mix", [Mix, MixToo])
def test_registered_class_is_quantized(mix, registered_mix):
    model = fliqs_keras.apply(build_net(mix), ["INT2", "INT8"])
    assert decisions(model) == ["mix", "head"]
    x = make_x()
    fliqs_keras.calibrate(model, x)
    set_all(model, "INT2")
    [kernel] = [w for w in model.get_layer("mix").weights if w.name == "mixer"]
    quantizers = model.get_layer("mix").quantizers()
    expected = x
    for quantizer, tensor in zip(
        reversed(quantizers), (x, kernel), strict=True
    ):
        threshold = ops.convert_to_numpy(quantizer.thresholds_for(tensor))[0]
        rounded = fliqs_keras.round_to_format(
            ops.convert_to_numpy(tensor), "INT2", threshold
        )
        expected = rounded if tensor is x else ops.matmul(expected, rounded)
    mixed = keras.Model(model.input, model.get_layer("mix").output)
    np.testing.assert_allclose(run(mixed, x)[0], expected, rtol=1e-6)


@pytest.mark.parametrize("key", ["mix", Mix, "inner/mix"])
def test_config_of_one_model(key):
    model = build_net()
    if key == "inner/mix":
        inner = keras.Input((4,))
        outer = keras.Sequential([build_net()], name="outer")
        outer.layers[0].name = "inner"
        model = keras.Model(inner, outer.layers[0](inner))
    assert decisions(fliqs_keras.apply(model, "INT4"))[0].endswith("head")
    configs = {key: MIX_CONFIG}
    quantized = fliqs_keras.apply(model, "INT4", quantize_configs=configs)
    assert decisions(quantized)[0].endswith("mix")


def test_config_that_fits_no_layer_is_refused():
    with pytest.raises(ValueError, match="'mixx', which is none of"):
        fliqs_keras.apply(
            build_net(), "INT4", quantize_configs={"mixx": MIX_CONFIG}
        )


class Plain(_tfmot.QuantizeConfig):
    """A config of tfmot's interface and nothing else."""

    def __init__(self, make_quantizer, activations=(), outputs=()):
        self.make_quantizer = make_quantizer
        self.activations = activations
        self.outputs = outputs

    def get_weights_and_quantizers(self, layer):
        return [(layer.mixer, self.make_quantizer())]

    def get_activations_and_quantizers(self, layer):
        return [(layer.call, make()) for make in self.activations]

    def set_quantize_weights(self, layer, quantize_weights):
        layer.mixer = quantize_weights[0]

    def set_quantize_activations(self, layer, quantize_activations):
        pass

    def get_output_quantizers(self, layer):
        return [make() for make in self.outputs]

    def get_config(self):
        return {}


def make_weight_quantizer():
    return fliqs_keras.WeightQuantizer(["INT2", "INT3"], [-1])


def make_output_quantizer():
    return fliqs_keras.ActivationQuantizer(["INT2", "INT3"])


def test_plain_tfmot_config_brings_its_own_formats():
    config = Plain(make_weight_quantizer, outputs=[make_output_quantizer])
    model = fliqs_keras.apply(
        build_net(), "INT8", quantize_configs={Mix: config}
    )
    fliqs_keras.calibrate(model, make_x())
    mix, head = quantized_layers(model)
    assert [f.name for f in mix.weight_quantizers[0].formats] == [
        "INT2",
        "INT3",
    ]
    assert mix.input_quantizer is None
    assert mix.output_quantizer is not None
    assert decisions(model) == ["mix", "head"]
    assert fliqs_keras.FormatAssignment.from_model(model)["mix"].name == "INT3"
    # 4 x 3 weights in 3 bits, on inputs in float, and 3 x 2 in 8.
    assert fliqs_keras.BitOps()(model) * 1e9 == pytest.approx(
        12 * 3 * 32 + 6 * 8 * 8
    )


def test_plain_tfmot_config_leaves_activations_in_float():
    config = Plain(make_weight_quantizer, outputs=[make_output_quantizer])
    configs = {"quantize_configs": {Mix: config}}
    space = fliqs_keras.SearchSpace("INT4", activations=None)
    model = fliqs_keras.apply(build_net(), space, **configs)
    assignment = fliqs_keras.FormatAssignment.from_model(model)
    for again in (model, fliqs_keras.apply(build_net(), assignment, **configs)):
        mix, head = quantized_layers(again)
        assert mix.output_quantizer is head.input_quantizer is None
        assert mix.weight_quantizers[0].format.name == "INT3"


def test_plain_tfmot_config_keeps_its_own_activations():
    config = Plain(make_weight_quantizer, outputs=[make_output_quantizer])
    space = fliqs_keras.SearchSpace("INT4", activations="INT8")
    with pytest.raises(ValueError, match="Plain for layer 'mix'"):
        fliqs_keras.apply(build_net(), space, quantize_configs={Mix: config})


def make_keras_2_quantizer():
    from tensorflow_model_optimization.quantization import keras as tfmot

    return tfmot.quantizers.LastValueQuantizer(
        num_bits=4, per_axis=False, symmetric=True, narrow_range=True
    )


REFUSED = {
    "keras_2_quantizer": (Plain(make_keras_2_quantizer), "Keras 3 cannot run"),
    "activation_quantizer": (
        Plain(make_weight_quantizer, activations=[make_output_quantizer]),
        "get_output_quantizers",
    ),
    "two_output_quantizers": (
        Plain(make_weight_quantizer, outputs=[make_output_quantizer] * 2),
        "at most one output quantizer",
    ),
    "formats_that_differ": (
        Plain(
            make_weight_quantizer,
            outputs=[lambda: fliqs_keras.ActivationQuantizer(["INT4"])],
        ),
        "the same formats",
    ),
    "no_config": ("INT8", "QuantizeConfig"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_config_is_refused_with_the_way_out(name):
    config, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as error:
        fliqs_keras.apply(build_net(), "INT4", quantize_configs={Mix: config})
    assert "Received" in str(error.value)


def test_only_layer_classes_are_registered():
    with pytest.raises(ValueError, match="derived from"):
        fliqs_keras.register_quantize_config("Mix", MIX_CONFIG)


def test_switchable_config_is_tfmots_and_round_trips():
    config = fliqs_keras.SwitchableQuantizeConfig(
        ["a", "b.c"],
        {"a": (0,), "b.c": (-2, -1)},
        quantize_input=False,
        quantize_output=True,
        formats=["INT4"],
        decision="d",
    )
    assert isinstance(config, _tfmot.QuantizeConfig)
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(config)
    )
    assert again.get_config() == config.get_config()
    assert type(again) is type(config)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("kernel",), "sequence of attribute names"),
        ((["a", "b"], {"a": (0,)}), r"none for \['b'\]"),
    ],
    ids=["string", "axes_missing"],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        fliqs_keras.SwitchableQuantizeConfig(*arguments)


def test_output_quantizer_puts_outputs_on_the_grid(tmp_path):
    inputs = keras.Input((4,))
    x = layers.Dense(3, name="dense")(inputs)
    model = keras.Model(inputs, layers.Add(name="sum")([x, x]))
    output_only = fliqs_keras.SwitchableQuantizeConfig(
        [], quantize_input=False, quantize_output=True
    )
    model = fliqs_keras.apply(
        model, "INT3", quantize_configs={layers.Add: output_only}
    )
    x = make_x(32)
    fliqs_keras.calibrate(model, x)
    [y] = run(model, x)
    quantizer = model.get_layer("sum").output_quantizer
    codes = np.unique(np.round(y / quantizer.scale(), 4))
    np.testing.assert_array_equal(codes, np.arange(-3, 4))
    # It moves with the outputs while the model trains, and is saved.
    before = ops.convert_to_numpy(quantizer.range)
    model.compile("sgd", "mse", jit_compile=False)
    model.fit(x, 9 * y, verbose=0)
    assert ops.convert_to_numpy(quantizer.range) != before
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_equal(run(loaded, x), run(model, x))


def test_first_of_several_outputs_is_quantized():
    inputs = keras.Input((5, 4))
    y, state = layers.GRU(3, return_state=True, name="gru")(inputs)
    model = keras.Model(inputs, [y, state])
    config = quantize_registry.RecurrentQuantizeConfig(
        ["cell.kernel", "cell.recurrent_kernel"], quantize_output=True
    )
    model = fliqs_keras.apply(model, "INT2", quantize_configs={"gru": config})
    x = np.random.default_rng(0).normal(size=(8, 5, 4)).astype("float32")
    fliqs_keras.calibrate(model, x)
    y, state = run(model, x)
    assert len(np.unique(y)) <= 3 < len(np.unique(state))


MACS = {
    "separable": (
        lambda: layers.SeparableConv2D(5, 3),
        (6, 6, 2),
        # At 4 x 4 positions: 3 x 3 x 2 weights, then 2 x 5.
        16 * (18 + 10),
    ),
    "transposed": (
        lambda: layers.Conv2DTranspose(5, 3, strides=2),
        (6, 6, 2),
        # Each of 6 x 6 inputs meets all of the kernel.
        36 * (3 * 3 * 2 * 5),
    ),
    "channels_first": (
        lambda: layers.Conv2D(5, 3, data_format="channels_first"),
        (2, 6, 6),
        16 * (3 * 3 * 2 * 5),
    ),
    "lstm": (
        lambda: layers.LSTM(3),
        (7, 4),
        # At 7 steps: 4 gates of 3 units, from 4 inputs and 3 states.
        7 * 12 * (4 + 3),
    ),
    "einsum": (
        lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3)),
        (5, 4),
        5 * 4 * 2 * 3,
    ),
}


@pytest.mark.parametrize("name", MACS)
def test_macs_counted_by_hand(name):
    make_layer, shape, expected = MACS[name]
    if name == "channels_first" and IS_TENSORFLOW:
        pytest.skip("TensorFlow has no such convolution on a CPU")
    inputs = keras.Input(shape)
    model = keras.Model(inputs, make_layer()(inputs))
    summary = fliqs_keras.summary(fliqs_keras.apply(model, "INT8"))
    assert [row.macs for row in summary.quantized] == [expected]


def test_embedding_multiplies_nothing():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 4)(inputs)
    model = keras.Model(inputs, layers.Dense(2)(x))
    summary = fliqs_keras.summary(fliqs_keras.apply(model, "INT8"))
    assert [row.macs for row in summary.quantized] == [0, 5 * 4 * 2]
    # The table: 7 x 4 bytes. The dense layer: 4 x 2 bytes, and 2 floats.
    assert [row.bytes for row in summary.quantized] == [28, 16]


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
