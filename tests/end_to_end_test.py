"""The main job on small nets: search, save, export, errors."""

import itertools
import sys
import time

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from keras import layers

import fliqs_keras
from fliqs_keras.batch_norm import BatchNormWindow


def build_net(width=8):
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(width, 3, use_bias=False, name="conv")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU()(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def make_data(count=256, seed=0):
    generator = np.random.default_rng(seed)
    y = generator.integers(0, 3, count)
    x = generator.normal(size=(count, 8, 8, 1)) + y[:, None, None, None]
    return x.astype("float32"), y


def compile_net(model, **kwargs):
    model.compile(
        optimizer=keras.optimizers.Adam(1e-2),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **kwargs,
    )
    return model


def search_net(seed, controller="sensitivity"):
    keras.utils.set_random_seed(seed)
    formats = ["INT2", "INT4", "INT8"]
    model = compile_net(fliqs_keras.apply(build_net(), formats))
    x, y = make_data()
    search = fliqs_keras.FormatSearch(
        ("INT4", 1.2), data=(x, y), controller=controller, seed=seed
    )
    history = model.fit(x, y, epochs=6, verbose=0, callbacks=[search])
    return model, search, history


@pytest.fixture(scope="module")
def searched():
    return search_net(seed=0)


@pytest.fixture(scope="module")
def reinforced():
    return search_net(seed=0, controller="reinforce")


@pytest.mark.parametrize("kind", ["searched", "reinforced"])
def test_search_ends_within_the_target(kind, request):
    model, search, _ = request.getfixturevalue(kind)
    cost = fliqs_keras.BitOps()(model)
    costs = [
        sum(choice)
        for choice in itertools.product(*fliqs_keras.BitOps().table(model))
    ]
    reachable = max(c for c in costs if c <= search.target)
    floor = min(0.97 * search.target, reachable) * (1 - 1e-9)
    assert floor <= cost <= search.target * (1 + 1e-9)
    assert search.assignment == fliqs_keras.FormatAssignment.from_model(model)


def test_search_shows_what_its_controller_has(searched, reinforced):
    assert "cost" in searched[2].history
    assert "reward" not in searched[2].history
    shown = {"cost", "entropy", "reward", "baseline"}
    assert shown <= set(reinforced[2].history)


@pytest.mark.parametrize("kind", ["searched", "reinforced"])
def test_same_seed_same_result_and_another_differs(kind, request):
    model, search, _ = request.getfixturevalue(kind)
    controller = {"searched": "sensitivity", "reinforced": "reinforce"}[kind]
    again, search_again, _ = search_net(0, controller)
    other, _, _ = search_net(1, controller)
    assert search_again.assignment == search.assignment
    assert search_again.history == search.history
    assert search_again.sensitivity == search.sensitivity
    for a, b in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert not np.array_equal(
        model.get_layer("conv").kernel.numpy(),
        other.get_layer("conv").kernel.numpy(),
    )


def test_sensitivity_names_layers_and_formats(searched, reinforced):
    _, search, _ = searched
    assert set(search.sensitivity) == set(search.assignment)
    for estimates in search.sensitivity.values():
        assert list(estimates) == ["INT2", "INT4", "INT8"]
        assert estimates["INT8"] == (0.0, 0.0)
        assert estimates["INT2"].mean > estimates["INT4"].mean >= 0
        assert estimates["INT2"].standard_error > 0
    assert reinforced[1].sensitivity is None


def test_fixed_formats_stay():
    model = compile_net(fliqs_keras.apply(build_net(), ["INT2", "INT8"]))
    given = {"conv": "INT8", "depthwise": "INT2", "head": "INT8"}
    fixed = fliqs_keras.FixedFormats(given)
    seen = set()
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.add(
            str([q.format for q in model.get_layer("conv").quantizers()])
        )
    )
    x, y = make_data()
    model.fit(x, y, epochs=2, verbose=0, callbacks=[fixed, watch])
    assert fixed.assignment == fliqs_keras.FormatAssignment(given)
    assert fixed.assignment == fliqs_keras.FormatAssignment.from_model(model)
    assert len({row["cost"] for row in fixed.history}) == 1
    # First with the input in float, then with both in the format given.
    int8 = fliqs_keras.IntFormat(8)
    assert seen == {str([int8, None]), str([int8, int8])}


def test_saved_model_predicts_the_same(searched, tmp_path):
    model, search, _ = searched
    x, _ = make_data(seed=1)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )
    assert fliqs_keras.FormatAssignment.from_model(loaded) == search.assignment


TENSOR_TYPES = {
    "INT2": "INT2",
    "INT4": "INT4",
    "INT6": "INT8",
    "INT8": "INT8",
    "INT12": "INT16",
    "E2M1": "INT4",
    "E2M3": "INT8",
    "E4M3": "UINT8",
    "BF16": "BFLOAT16",
    "FP16": "FLOAT16",
}


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", TENSOR_TYPES)
def test_exported_file_computes_the_same(name, tmp_path):
    keras.utils.set_random_seed(0)
    model = fliqs_keras.apply(build_net(), name)
    x, _ = make_data(seed=1)
    # A batch-norm factor may be negative.
    model.get_layer("norm").gamma.assign(np.linspace(-1, 2, 8))
    fliqs_keras.calibrate(model, x)
    path = tmp_path / "model.tflite"
    report = fliqs_keras.export_tflite(model, path)
    assert [row.tensor_type for row in report.layers] == [
        TENSOR_TYPES[name]
    ] * 3
    assert not report.left_in_float
    assert report.file_bytes == path.stat().st_size
    expected = model.predict(x, verbose=0)
    got = fliqs_keras.run_tflite(path, x)
    if name in ("BF16", "FP16"):
        # One rounding of the other kind of a value on a tie is one quantum.
        tolerance = 5e-3
    else:
        tolerance = 1e-5
    assert np.abs(got - expected).max() <= tolerance * np.ptp(expected)


@pytest.mark.tensorflow
def test_int4_layers_are_int4_tensors(searched, tmp_path):
    model, _, _ = searched
    fliqs_keras.FormatAssignment(
        {"conv": "INT4", "depthwise": "INT8", "head": "INT4"}
    ).apply_to(model)
    fliqs_keras.export_tflite(model, tmp_path / "model.tflite")
    content = (tmp_path / "model.tflite").read_bytes()
    file = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    stored = {
        (tuple(tensor.shape), tensor.type)
        for tensor in file.subgraphs[0].tensors
    }
    assert ((8, 3, 3, 1), schema.TensorType.INT4) in stored
    assert ((1, 3, 3, 8), schema.TensorType.INT8) in stored
    assert ((3, 8), schema.TensorType.INT4) in stored


@pytest.mark.parametrize(
    "jit_compile",
    [True, pytest.param(False, marks=pytest.mark.tensorflow)],
    ids=["jit", "no_jit"],
)
def test_switching_does_not_recompile(jit_compile):
    formats = ["INT2", "INT4", "E4M3", "BF16"]
    model = compile_net(
        fliqs_keras.apply(build_net(), formats), jit_compile=jit_compile
    )
    x, y = make_data(32)
    model.train_on_batch(x, y)
    names = list(fliqs_keras.FormatAssignment.from_model(model))

    def train(choose):
        start = time.perf_counter()
        for step in range(100):
            fliqs_keras.FormatAssignment(
                {name: choose(step, i) for i, name in enumerate(names)}
            ).apply_to(model)
            model.train_on_batch(x, y)
        return time.perf_counter() - start

    fixed = min(train(lambda step, i: "INT4") for _ in range(2))
    switched = min(
        train(lambda step, i: formats[(step + i) % 4]) for _ in range(2)
    )
    # One compilation alone takes longer than a hundred steps.
    assert switched < 2 * fixed + 0.5


@pytest.mark.parametrize("controller", ["sensitivity", "reinforce"])
def test_search_ends_within_two_budgets(controller):
    formats = ["INT2", "INT4", "INT8"]
    model = compile_net(fliqs_keras.apply(build_net(), formats))
    x, y = make_data(64)
    budgets = {
        fliqs_keras.BitOps(): ("INT4", 2.0),
        fliqs_keras.WeightBytes(): ("INT4", 1.1),
    }
    search = fliqs_keras.FormatSearch(
        budgets, data=(x, y), controller=controller, seed=0
    )
    model.fit(x, y, batch_size=8, epochs=3, verbose=0, callbacks=[search])
    uniform = dict.fromkeys(search.assignment, "INT4")
    for cost, (_, factor) in budgets.items():
        limit = factor * cost(model, uniform)
        assert cost(model) <= limit * (1 + 1e-9)


def test_two_budgets_that_cannot_be_met_are_refused_before_training():
    model = compile_net(fliqs_keras.apply(build_net(), ["INT4", "INT8"]))
    before = [w.numpy() for w in model.trainable_weights]
    x, y = make_data(16)
    names = list(fliqs_keras.FormatAssignment.from_model(model))
    least = fliqs_keras.WeightBytes()(model, dict.fromkeys(names, "INT4"))
    search = fliqs_keras.FormatSearch(
        {
            fliqs_keras.BitOps(): ("INT8", 0.9),
            fliqs_keras.WeightBytes(): least - 1,
        },
        data=(x, y),
    )
    with pytest.raises(ValueError, match=f"between {least:.6g}"):
        model.fit(x, y, verbose=0, callbacks=[search])
    for old, new in zip(before, model.trainable_weights, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    "target, cost", [({}, None), ({fliqs_keras.BitOps(): 1}, "BitOps")]
)
def test_targets_that_are_none_or_double_are_refused(target, cost):
    cost = cost and fliqs_keras.BitOps()
    with pytest.raises(ValueError, match="without `cost`"):
        fliqs_keras.FormatSearch(target, cost, controller="reinforce")


def test_two_steps_at_once_train_the_same():
    def train(at_once):
        keras.utils.set_random_seed(0)
        model = fliqs_keras.apply(build_net(), ["INT4", "INT8"])
        model.compile(
            keras.optimizers.SGD(0.01),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            steps_per_execution=at_once,
        )
        x, y = make_data(80)
        names = fliqs_keras.FormatAssignment.from_model(model)
        fixed = fliqs_keras.FixedFormats(
            dict.fromkeys(names, "INT4"), activation_delay=0.5
        )
        model.fit(
            x,
            y,
            batch_size=8,
            epochs=6,
            shuffle=False,
            verbose=0,
            callbacks=[fixed],
        )
        return model, fixed

    one, fixed = train(1)
    two, at_once = train(2)
    assert (len(fixed.history), len(at_once.history)) == (60, 30)
    for a, b in zip(one.weights, two.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_a_search_with_several_steps_at_once_keeps_its_budget(monkeypatch):
    averaged = []
    close = BatchNormWindow.close

    def note(self, steps):
        averaged.append(steps)
        close(self, steps)

    monkeypatch.setattr(BatchNormWindow, "close", note)
    model = fliqs_keras.apply(build_net(), ["INT4", "INT8"])
    model.compile(
        "sgd",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=3,
    )
    x, y = make_data(64)
    search = fliqs_keras.FormatSearch(("INT4", 1.5), data=(x, y))
    model.fit(x, y, batch_size=8, epochs=4, verbose=0, callbacks=[search])
    # Of 8 steps an epoch, 3, 3 and 2 at a time, the last of which are averaged.
    assert len(search.history) == 12
    assert averaged == [2]
    assert search.sensitivity is not None
    assert fliqs_keras.BitOps()(model) <= search.target * (1 + 1e-9)


@pytest.mark.parametrize(
    ("start", "expected"), [(0.25, 2), (0.75, 4)], ids=["cut", "whole"]
)
def test_activations_are_quantized_when_formats_are_compared(start, expected):
    model = compile_net(fliqs_keras.apply(build_net(), ["INT4", "INT8"]))
    quantizer = model.get_layer("depthwise").input_quantizer
    formats = []
    x, y = make_data(64)
    search = fliqs_keras.FormatSearch(
        ("INT4", 1.5),
        data=(x, y),
        controller=fliqs_keras.Sensitivity(start=start),
        activation_delay=0.5,
    )
    seen = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda b, logs: formats.append(quantizer.format)
    )
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[search, seen])
    assert formats.count(None) == expected
    assert None not in formats[expected:]


def test_the_model_given_is_left_untouched():
    model = build_net()
    before = [w.numpy() for w in model.weights]
    fliqs_keras.apply(model, "INT4")
    assert type(model.get_layer("conv")) is layers.Conv2D
    for variable, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_layer_names_are_kept():
    model = build_net()
    quantized = fliqs_keras.apply(model, "INT4")
    assert [v.name for v in quantized.layers] == [v.name for v in model.layers]
    assert isinstance(quantized.get_layer("conv"), layers.Conv2D)


@pytest.mark.parametrize(
    "method",
    # On JAX `predict` cannot see the thresholds, and returns NaN.
    ["__call__", pytest.param("predict", marks=pytest.mark.tensorflow)],
)
def test_uncalibrated_model_is_not_evaluated(method):
    model = fliqs_keras.apply(build_net(), "INT8")
    x, _ = make_data(4)
    with pytest.raises(ValueError, match="seen no data"):
        getattr(model, method)(x)
    fliqs_keras.calibrate(model, x)
    assert np.isfinite(np.asarray(getattr(model, method)(x))).all()


@pytest.mark.tensorflow
def test_uncalibrated_model_is_not_exported(tmp_path):
    model = fliqs_keras.apply(build_net(), "INT8")
    with pytest.raises(ValueError, match="calibrate"):
        fliqs_keras.export_tflite(model, tmp_path / "model.tflite")
    assert not (tmp_path / "model.tflite").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: fliqs_keras.apply(m, ["INT4", "INT99"]), "2 to 16 bits"),
        (lambda m: fliqs_keras.apply(m, ["INT4", "FOO"]), "name of a number"),
        (lambda m: fliqs_keras.apply(m, []), "at least one format"),
        (lambda m: fliqs_keras.apply("model", "INT4"), "keras.Model"),
        (
            lambda m: fliqs_keras.apply(
                keras.Sequential([layers.Dense(2)]), "INT4"
            ),
            "that is built",
        ),
        (
            lambda m: fliqs_keras.apply(
                keras.Sequential([keras.Input((2,)), layers.ReLU()]), "INT4"
            ),
            "at least one layer",
        ),
        (
            lambda m: fliqs_keras.apply(fliqs_keras.apply(m, "INT4"), "INT4"),
            "already",
        ),
    ],
    ids=[
        "bits_out_of_range",
        "unknown_format",
        "no_format",
        "not_a_model",
        "not_built",
        "nothing_to_quantize",
        "twice",
    ],
)
def test_apply_refuses(change, message):
    with pytest.raises(ValueError, match=message) as error:
        change(build_net())
    assert "Received" in str(error.value)


@pytest.mark.parametrize(
    "formats, target, message",
    [
        (None, ("INT4", 1.0), "quantizers"),
        (["INT4"], ("INT4", 1.0), "at least two formats"),
        (["INT4", "INT8"], ("INT4", 0.9), "between"),
        (["INT4", "INT8"], ("INT8", 1.1), "between"),
        (["INT4", "INT8"], ("INT3", 1.1), "one of the options"),
    ],
    ids=["no_apply", "one_option", "too_cheap", "too_dear", "foreign_format"],
)
def test_search_refuses_before_training(formats, target, message):
    model = build_net()
    if formats:
        model = fliqs_keras.apply(model, formats)
    compile_net(model)
    before = [w.numpy() for w in model.trainable_weights]
    x, y = make_data(32)
    with pytest.raises(ValueError, match=message):
        search = fliqs_keras.FormatSearch(target, data=(x, y))
        model.fit(x, y, verbose=0, callbacks=[search])
    for variable, value in zip(model.trainable_weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


@pytest.mark.parametrize(
    "data, expected",
    [(None, fliqs_keras.Reinforce), (make_data(8), fliqs_keras.Sensitivity)],
    ids=["without_data", "with_data"],
)
def test_default_controller_is_the_best_that_the_data_allows(data, expected):
    search = fliqs_keras.FormatSearch(("INT4", 1.0), data=data)
    assert isinstance(search.controller_config, expected)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"controller": "sensitivity"}, "training examples"),
        ({"controller": "magic"}, "reinforce"),
        ({"controller": fliqs_keras.Reinforce}, r"Reinforce\(\)"),
        ({"controller": "reinforce", "activation_delay": 1.0}, "below 1"),
    ],
    ids=["no_data", "unknown_controller", "class", "no_end_of_the_delay"],
)
def test_search_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        fliqs_keras.FormatSearch(("INT4", 1.0), **settings)
    assert "Received" in str(error.value)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
