"""A test that every kind of layer must pass, in every kind of model."""

import keras
import numpy as np
from keras import ops

import fliqs_keras
from fliqs_keras import quantized_layers
from tests.backends import IS_TENSORFLOW, variable_gradients

FORMATS = ["INT2", "INT8", "E4M3"]


@keras.saving.register_keras_serializable(package="fliqs_keras_tests")
class SubclassedModel(keras.Model):
    """A model that calls one layer."""

    def __init__(self, layer, calls=1, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer
        self.calls = calls

    def call(self, x):
        return self.layer(*[x] * self.calls)

    def get_config(self):
        layer = keras.saving.serialize_keras_object(self.layer)
        return {"layer": layer, "calls": self.calls, "name": self.name}

    @classmethod
    def from_config(cls, config):
        layer = keras.saving.deserialize_keras_object(config.pop("layer"))
        return cls(layer, **config)


def build_model(kind, layer, x, calls=1):
    """Puts a layer into a model; `calls` is how many inputs it takes."""
    inputs = keras.Input(x.shape[1:], dtype=str(x.dtype))
    if kind == "subclassed":
        model = SubclassedModel(layer, calls)
        model(x)
        return model
    model = keras.Model(inputs, layer(*[inputs] * calls))
    if kind == "nested":
        outer = keras.Input(x.shape[1:], dtype=str(x.dtype))
        model = keras.Model(outer, model(outer))
    return model


def set_all(model, number_format):
    assignment = fliqs_keras.FormatAssignment.from_model(model)
    fliqs_keras.FormatAssignment(
        dict.fromkeys(assignment, number_format)
    ).apply_to(model)


def run(model, x):
    outputs = keras.tree.flatten(model(x, training=False))
    return [ops.convert_to_numpy(y) for y in outputs]


def assert_equal(got, expected):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def gradients(model, x, variables):
    """Gradients of the sum of the squared outputs, as NumPy arrays."""

    def loss():
        outputs = keras.tree.flatten(model(x, training=False))
        return sum(ops.sum(ops.square(ops.cast(y, "float32"))) for y in outputs)

    return variable_gradients(loss, variables)


def check_gradients(model, original, x, number_format):
    """Compares with the float model at the rounded weights, clipped out."""
    set_all(model, number_format)
    layers = quantized_layers.quantized_layers(model)
    pairs = [pair for layer in layers for pair in layer.quantized_weights()]
    index = FORMATS.index(number_format)
    for layer in layers:
        for quantizer in layer.activation_quantizers():
            quantizer.set_format(None)
    position = {id(w): i for i, w in enumerate(_float_weights(model))}
    reference = original.weights
    saved = original.get_weights()
    masks = []
    for variable, quantizer in pairs:
        weight = ops.convert_to_numpy(variable)
        found = quantizer.thresholds_for(ops.convert_to_tensor(weight))
        threshold = ops.convert_to_numpy(found)[index]
        masks.append(np.abs(weight) <= threshold)
        reference[position[id(variable)]].assign(
            fliqs_keras.round_to_format(weight, number_format, threshold)
        )
    chosen = [reference[position[id(variable)]] for variable, _ in pairs]
    expected = gradients(original, x, chosen)
    got = gradients(model, x, [variable for variable, _ in pairs])
    original.set_weights(saved)
    set_all(model, number_format)
    for g, e, mask in zip(got, expected, masks, strict=True):
        e = np.where(mask, e, 0.0)
        np.testing.assert_allclose(g, e, rtol=1e-4, atol=1e-5 * abs(e).max())
    assert not all(mask.all() for mask in masks), "nothing is clipped"


def _float_weights(model):
    layers = quantized_layers.quantized_layers(model)
    state = {id(w) for v in layers for q in v.quantizers() for w in q.weights}
    return [w for w in model.weights if id(w) not in state]


class TraceCounter(quantized_layers.CallHook):
    """Counts how often Python runs through the layers."""

    count = 0

    def weight(self, layer, variable, quantizer):
        self.count += 1
        return super().weight(layer, variable, quantizer)


def check_compiled(model, x, jit_compile):
    """Compiled equals eager, and switching formats traces nothing anew."""
    model.compile("sgd", loss=None, jit_compile=jit_compile)
    counter = TraceCounter()
    with quantized_layers.use_hook(counter):
        for number_format in FORMATS:
            set_all(model, number_format)
            got = keras.tree.flatten(model.predict(x, verbose=0))
            if number_format == FORMATS[0]:
                traced = counter.count
        assert counter.count == traced > 0
    for a, b in zip(got, run(model, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * abs(b).max())


def run_layer_test(kind, layer, x, tmp_path, calls=1):
    """Quantizes a layer in a model of some kind and checks everything."""
    # JAX compiles with XLA or not at all; TensorFlow is tried both ways.
    jit_compile = kind == "functional" or not IS_TENSORFLOW
    original = build_model(kind, layer, x, calls)
    before = original.get_weights()
    float_outputs = run(original, x)
    model = fliqs_keras.apply(original, FORMATS)
    fliqs_keras.calibrate(model, x)
    outputs = {}
    for number_format in FORMATS * 2:
        set_all(model, number_format)
        got = run(model, x)
        assert_equal(got, outputs.setdefault(number_format, got))
    assert len({y[0].tobytes() for y in outputs.values()}) == len(FORMATS)
    check_gradients(model, original, x, "INT2")
    check_compiled(model, x, jit_compile)
    set_all(model, "INT2")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_equal(run(loaded, x), outputs["INT2"])
    assignment = fliqs_keras.FormatAssignment.from_model(model)
    assert fliqs_keras.FormatAssignment.from_model(loaded) == assignment
    assert_equal(original.get_weights(), before)
    assert_equal(run(original, x), float_outputs)
