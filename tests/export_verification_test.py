"""Files run beside their Keras models, and the figures worked by hand."""

import dataclasses
import itertools
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from fliqs_keras.export import running
from fliqs_keras.export.converter import convert
from fliqs_keras.export.differences import OutputDifference, distance
from fliqs_keras.export.running import run_tflite
from fliqs_keras.export.signature import flatten_outputs, input_specs
from fliqs_keras.export.verification import verify_export
from fliqs_keras.quantized_layers import CallHook


def write(model, path, input_signature=None):
    specs = input_specs(model, input_signature)
    path.write_bytes(convert(model, specs, CallHook()))
    return path


def identity_model():
    x = keras.Input((2,), name="x")
    dense = layers.Dense(2, use_bias=False, kernel_initializer="identity")
    return keras.Model(x, dense(x))


def forked_model():
    image = keras.Input((4, 4, 2), name="image")
    vector = keras.Input((3,), name="vector")
    features = layers.Flatten()(layers.Conv2D(3, 3)(image))
    joined = layers.Concatenate()([features, vector])
    outputs = {"one": layers.Dense(5)(joined), "features": features}
    return keras.Model({"image": image, "vector": vector}, outputs)


def forked_inputs(count=5):
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(size=(count, 4, 4, 2)).astype("float32"),
        "vector": rng.normal(size=(count, 3)).astype("float32"),
    }


X = np.array([[0, 1], [2, 4]], "float32")


def assert_close(actual, expected):
    actual, expected = map(dataclasses.asdict, (actual, expected))
    assert actual.pop("output") == expected.pop("output")
    assert actual == pytest.approx(expected)


def test_differences_worked_by_hand(tmp_path):
    model = identity_model()
    path = write(model, tmp_path / "model.tflite")
    model.layers[1].kernel.assign(1.25 * np.eye(2))
    report = verify_export(model, path, X)
    # Keras returns 0, 1.25, 2.5 and 5, the file 0, 1, 2 and 4.
    squares = (0.25**2 + 0.5**2 + 1) / 4
    expected = OutputDifference(
        "output_0",
        1.0,
        largest=1 / 5,
        mean=(0.25 + 0.5 + 1) / 20,
        rms=(squares / np.var([0, 1.25, 2.5, 5])) ** 0.5,
    )
    for name, rows in report.runs.items():
        assert_close(rows[0], expected)
        followed = report.layerwise[name]
        assert_close(followed.outputs[0], expected)
        assert followed.quantizers == {}
    assert report.examples == 2
    assert not report.agrees and "DISAGREES" in str(report)


def test_argmax_of_swapped_outputs(tmp_path):
    model = identity_model()
    path = write(model, tmp_path / "model.tflite")
    model.layers[1].kernel.assign([[0, 1], [1, 0]])
    report = verify_export(model, path, np.float32([[0, 1], [2, 4], [3, 3]]))
    # Where both elements are the same, the first counts on either side.
    assert report.runs["xnnpack"][0].argmax_agreement == pytest.approx(1 / 3)


def test_a_classifier_of_many_classes_that_is_wrong(tmp_path):
    x = keras.Input((2500,), name="x")
    model = keras.Model(x, layers.Softmax()(layers.Rescaling(20.0)(x)))
    path = write(model, tmp_path / "model.tflite")
    rolled = keras.Model(x, keras.ops.roll(model(x), 1, axis=-1))
    report = verify_export(rolled, path, np.eye(2500, dtype="float32")[:8])
    row = report.runs["xnnpack"][0]
    # Of 2,500 numbers two differ.
    assert row.mean < 1e-3 and row.argmax_agreement == 0
    assert row.rms == pytest.approx(2**0.5, rel=1e-3)
    assert not report.agrees


def test_what_is_no_number_never_agrees(tmp_path):
    model = identity_model()
    path = write(model, tmp_path / "model.tflite")
    model.layers[1].kernel.assign([[1, np.nan], [0, 1]])
    report = verify_export(model, path, X, tolerance=1e6)
    assert report.runs["xnnpack"][0].mean == np.inf
    assert not report.agrees


@pytest.mark.parametrize("is_reversed", [False, True], ids=["last", "first"])
def test_examples_that_are_wrong_are_found_wherever_they_stand(
    is_reversed, tmp_path
):
    ids = keras.Input((1,), name="ids", dtype="int32")
    model = keras.Model(ids, layers.Embedding(20, 4, "uniform")(ids))
    path = write(model, tmp_path / "model.tflite")
    table = model.layers[1].embeddings
    table.assign(table.numpy() * np.where(np.arange(20) < 10, 1, -1)[:, None])
    x = np.arange(20, dtype="int32")[:, None]
    report = verify_export(model, path, x[::-1] if is_reversed else x)
    assert not report.agrees


# The float32 before 250,000 is 1/64 below.
@pytest.mark.parametrize(
    "actual, expected, difference",
    [
        (250000 - 1 / 64, 250000, 0),
        (250000 - 1, 250000, 1),
        (1e-7, 0, 1e-7),
        (-np.inf, -np.inf, 0),
        (1, np.inf, np.inf),
        (np.nan, 1, np.inf),
    ],
    ids=["last_bit", "more", "at_zero", "infinite", "finite", "no_number"],
)
def test_distances_worked_by_hand(actual, expected, difference):
    found, _ = distance(np.array([actual]), np.array([expected], "float64"))
    assert found.tolist() == [difference]


def batches_with_labels(inputs, count=5):
    dataset = tf.data.Dataset.from_tensor_slices((inputs, np.zeros(count)))
    return dataset.batch(2)


@pytest.mark.parametrize(
    "as_data", [lambda x: x, batches_with_labels], ids=["arrays", "dataset"]
)
@pytest.mark.parametrize("batch_size", [2, 64])
def test_several_inputs_and_outputs(as_data, batch_size, tmp_path):
    model = forked_model()
    path = write(model, tmp_path / "model.tflite")
    data = as_data(forked_inputs())
    report = verify_export(model, path, data, batch_size=batch_size)
    assert report.agrees and report.examples == 5
    rows = report.runs["builtin"]
    assert [row.output for row in rows] == ["features", "one"]
    rows = itertools.chain(*report.runs.values())
    assert all(row.largest < 1e-6 for row in rows)


@pytest.mark.parametrize(
    "as_data",
    [
        list,
        tuple,
        lambda parts: dict(zip("ab", parts, strict=True)),
        lambda parts: batches_with_labels(tuple(parts), len(parts[0])),
    ],
    ids=["list", "tuple", "names", "dataset"],
)
def test_a_list_of_inputs_and_of_outputs(as_data, tmp_path):
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    outputs = [layers.Subtract()([a, b]), layers.Dense(2)(a)]
    model = keras.Model([a, b], outputs)
    path = write(model, tmp_path / "model.tflite")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 4, 3)).astype("float32")
    assert verify_export(model, path, as_data([x, y])).agrees
    got = run_tflite(path, {"a": x, "b": y})
    np.testing.assert_array_equal(got["output_0"], x - y)


@pytest.mark.parametrize(
    "as_data", [lambda x: x, batches_with_labels], ids=["array", "dataset"]
)
def test_a_list_of_one_input(as_data, tmp_path):
    x = keras.Input((3,), name="x")
    model = keras.Model([x], layers.Dense(2)(x))
    path = write(model, tmp_path / "model.tflite")
    data = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    report = verify_export(model, path, as_data(data))
    assert report.agrees and report.examples == 5


def test_subclassed_model(tmp_path):
    class Doubling(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, x):
            return 2 * self.dense(x)

    model = Doubling()
    model(X)
    path = write(model, tmp_path / "model.tflite")
    assert verify_export(model, path, X).agrees


def test_other_inputs_are_refused(tmp_path):
    model = forked_model()
    path = write(model, tmp_path / "model.tflite")
    data = {"image": forked_inputs()["image"]}
    with pytest.raises(ValueError, match="structure that the model takes"):
        verify_export(model, path, data)


def test_fixed_batch_size(tmp_path):
    model = forked_model()
    signature = {
        "image": tf.TensorSpec((2, 4, 4, 2)),
        "vector": tf.TensorSpec((2, 3)),
    }
    path = write(model, tmp_path / "model.tflite", signature)
    inputs = forked_inputs()
    outputs = run_tflite(path, inputs)
    assert outputs["one"].shape == (5, 5)
    assert verify_export(model, path, inputs).agrees


def test_the_delegate_is_left_out_where_asked(tmp_path, monkeypatch):
    resolvers = []

    def record(*args, experimental_op_resolver_type, **kwargs):
        resolvers.append(experimental_op_resolver_type.name)
        return interpreter(*args, **kwargs)

    interpreter = running.Interpreter
    path = write(identity_model(), tmp_path / "model.tflite")
    monkeypatch.setattr(running, "Interpreter", record)
    verify_export(identity_model(), path, X)
    assert resolvers == ["AUTO", "BUILTIN_WITHOUT_DEFAULT_DELEGATES"]


@pytest.mark.parametrize(
    "data, message",
    [
        (X[:0], "at least one"),
        ([], "at least one batch"),
        ({"x": X, "y": X}, "arrays|batch"),
        ((X, X), r"Of `\(x, y\)` pass `x` only"),
    ],
    ids=["no_examples", "no_batch", "other_structure", "pair"],
)
def test_data_that_does_not_fit(data, message, tmp_path):
    model = identity_model()
    path = write(model, tmp_path / "model.tflite")
    with pytest.raises(ValueError, match=message):
        verify_export(model, path, data)


def test_file_of_another_model(tmp_path):
    path = write(forked_model(), tmp_path / "model.tflite")
    with pytest.raises(ValueError, match=r"\['image', 'vector'\]"):
        verify_export(identity_model(), path, X)
    with pytest.raises(ValueError, match="one array of shape"):
        run_tflite(path, X)


def test_input_signature_of_another_structure():
    with pytest.raises(ValueError, match="in the structure of the inputs"):
        input_specs(forked_model(), tf.TensorSpec((1, 2)))


@pytest.mark.parametrize(
    "names, expected",
    [
        (["pixel values"], ["pixel_values"]),
        (["x:0"], ["x_0"]),
        (["Größe"], ["Gr__e"]),
        (["1st"], ["1st"]),
        (["a 1", "a-1"], ["a_1", "a-1_1"]),
        (["a 1", "a_1"], ["a_1", "a_1_1"]),
        (["input", "Input"], ["input", "Input_1"]),
    ],
)
def test_names_that_files_cannot_have(names, expected, tmp_path):
    inputs = [keras.Input((3,), name=name) for name in names]
    joined = keras.ops.concatenate([keras.ops.negative(x) for x in inputs], 1)
    model = keras.Model(inputs, layers.Dense(2)(joined))
    specs = keras.tree.flatten(input_specs(model))
    assert [spec.name for spec in specs] == expected
    path = write(model, tmp_path / "model.tflite")
    data = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    parts = [data * (n + 1) for n in range(len(names))]
    assert verify_export(model, path, parts).agrees
    run_tflite(path, dict(zip(expected, parts, strict=True)))


def test_names_of_inputs_and_outputs():
    specs = input_specs(forked_model())
    assert {k: v.name for k, v in specs.items()} == {
        "image": "image",
        "vector": "vector",
    }
    assert input_specs(identity_model()).name == "x"
    assert list(flatten_outputs([1, {"a": 2}])) == ["output_0", "output_1"]
    assert flatten_outputs({"b": 1, "a": 2}) == {"a": 2, "b": 1}


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
