"""Budgets and searches where weights and activations are decided apart."""

import itertools
import sys

import keras
import numpy as np
import pytest
from keras import layers

import fliqs_keras
from fliqs_keras import SearchSpace
from fliqs_keras.quantized_layers import quantized_layers

# Multiply-accumulates: 8 * 6 = 48 and 6 * 3 = 18.
MACS = 48 + 18
TIED = SearchSpace(["INT4", "INT8"])
SEPARATE = SearchSpace(["INT4", "INT8"], activations=["INT4", "INT6", "INT8"])
WEIGHTS = SearchSpace(["INT2", "INT4", "INT8"], activations=None)
GROUPED = SearchSpace(["INT4", "INT8"], groups=["body"])
SPACES = {
    "separate": SEPARATE,
    "weights_only": WEIGHTS,
    "grouped": GROUPED,
    "integers_and_floats": fliqs_keras.FLIQS_S | fliqs_keras.FLIQS_S_FLOAT,
}


def build_net():
    inputs = keras.Input((8,))
    x = layers.Dense(6, activation="relu", name="body")(inputs)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def make_data(count=64):
    generator = np.random.default_rng(0)
    y = generator.integers(0, 3, count)
    x = generator.normal(size=(count, 8)) + 2 * y[:, None]
    return x.astype("float32"), y


def make_model(space):
    keras.utils.set_random_seed(0)
    model = fliqs_keras.apply(build_net(), space)
    model.compile(
        keras.optimizers.Adam(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def search(model, target, controller, seed=0):
    x, y = make_data()
    found = fliqs_keras.FormatSearch(
        target, data=(x, y), controller=controller, seed=seed
    )
    model.fit(x, y, batch_size=8, epochs=3, verbose=0, callbacks=[found])
    return found


def test_budget_by_hand():
    net = build_net()
    table = fliqs_keras.budget(net, SEPARATE)
    # The weights have no INT6.
    assert list(table.uniform) == ["INT4", "INT8"]
    assert table.unit == "GBOPs"
    assert table.cheapest * 1e9 == pytest.approx(MACS * 16)
    assert table.dearest * 1e9 == pytest.approx(MACS * 64)
    assert table.uniform["INT4"] == pytest.approx(table.cheapest)


def test_budget_prints_a_table_from_cheap_to_dear():
    space = SearchSpace(["INT4", "INT6", "INT8"])
    table = fliqs_keras.budget(build_net(), space, target=("INT4", 3.0))
    assert str(table).splitlines() == [
        "              GBOPs  x cheapest",
        "cheapest  1.056e-06       1.000",
        "all INT4  1.056e-06       1.000",
        "all INT6  2.376e-06       2.250",
        "target    3.168e-06       3.000",
        "all INT8  4.224e-06       4.000",
        "dearest   4.224e-06       4.000",
    ]


@pytest.mark.parametrize(
    "factor, words", [(0.5, "target, out of reach"), (5, "target, met by all")]
)
def test_budget_says_that_a_target_is_not_between(factor, words):
    table = fliqs_keras.budget(build_net(), TIED, target=("INT4", factor))
    assert words in str(table)


def test_budget_of_bytes():
    table = fliqs_keras.budget(
        build_net(), TIED, fliqs_keras.WeightBytes(), target=70
    )
    # Half a byte a weight and 4 bytes a channel, of which there are 9.
    assert table.cheapest == MACS / 2 + 4 * 9
    assert table.dearest == MACS + 4 * 9
    assert table.target == 70.0


@pytest.mark.parametrize("controller", ["sensitivity", "reinforce"])
@pytest.mark.parametrize("name", SPACES)
def test_search_of_a_space_uses_its_budget(name, controller):
    model = make_model(SPACES[name])
    found = search(model, ("INT4", 1.9), controller)
    cost = fliqs_keras.BitOps()
    costs = [
        cost(model, dict(zip(found.assignment, formats, strict=True)))
        for formats in itertools.product(
            *SPACES[name].decisions(build_net()).values()
        )
    ]
    reachable = max(c for c in costs if c <= found.target)
    floor = min(0.97 * found.target, reachable) * (1 - 1e-9)
    assert floor <= cost(model) <= found.target * (1 + 1e-9)
    decisions = SPACES[name].decisions(build_net())
    assert list(found.assignment) == list(decisions)
    if found.sensitivity is not None:
        assert {k: set(v) for k, v in found.sensitivity.items()} == {
            k: {f.name for f in v} for k, v in decisions.items()
        }


@pytest.mark.parametrize("controller", ["sensitivity", "reinforce"])
def test_search_of_pairs_ends_within_two_budgets(controller):
    model = make_model(SEPARATE)
    bits, size = fliqs_keras.BitOps(), fliqs_keras.WeightBytes()
    # A weight of eight bits in the body alone is more than the bytes allow.
    budgets = {bits: ("INT4", 2.5), size: MACS / 2 + 4 * 9 + 10}
    search(model, budgets, controller)
    assert size(model) <= budgets[size]
    assert bits(model) * 1e9 <= 2.5 * 16 * MACS * (1 + 1e-9)
    body, _ = quantized_layers(model)
    assert body.weight_quantizers[0].format.name == "INT4"


def test_budgets_that_exclude_each_other_are_refused_before_training():
    class Turned(fliqs_keras.Cost):
        """Dear where the bytes are cheap, as an area of decoders may be."""

        unit = "decoders"

        def terms(self, model):
            values = np.array([2.0, 1.0])
            names = [
                q.quantize_config.decision for q in quantized_layers(model)
            ]
            return [fliqs_keras.CostTerm((name,), values) for name in names]

    model = make_model(TIED)
    before = model.get_weights()
    budgets = {fliqs_keras.BitOps(): ("INT4", 1.5), Turned(): 2.5}
    # The head wide: 48 * 16 + 18 * 64 = 1920 and 3; the body: 3360 and 3.
    with pytest.raises(ValueError, match=r"nearest .* \[1.92\d*e-06, 3"):
        search(model, budgets, "sensitivity")
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("controller", ["sensitivity", "reinforce"])
def test_a_cost_that_nothing_has_is_refused_before_training(controller):
    embedding = layers.Embedding(10, 4, name="embedding")
    model = keras.Sequential([keras.Input((3,), dtype="int32"), embedding])
    model = fliqs_keras.apply(model, ["INT4", "INT8"])
    model.compile("adam", "mse")
    x, y = np.zeros((8, 3), "int32"), np.zeros((8, 3, 4))
    search = fliqs_keras.FormatSearch(
        ("INT4", 1.2), data=(x, y), controller=controller
    )
    with pytest.raises(ValueError, match=r"`fliqs_keras.WeightBytes\(\)`"):
        model.fit(x, y, verbose=0, callbacks=[search])
    assert search.history == []


@pytest.mark.parametrize(
    "arguments, received",
    [
        ({"cost_target": "INT4"}, "'INT4'"),
        ({"cost_target": ("INT4", 1, 2)}, r"\('INT4', 1, 2\)"),
        ({"cost_target": ("INT4", "1")}, r"\('INT4', '1'\)"),
        ({"cost_target": ("INT44", 1.0)}, "width=44"),
        ({"cost_target": None}, "None"),
        ({"cost_target": 1.0, "cost": fliqs_keras.WeightBytes}, "<class"),
        ({"cost_target": {"BitOps": 1.0}}, "'BitOps'"),
        ({"cost_target": {fliqs_keras.BitOps: 1.0}}, "<class"),
    ],
    ids=[
        *("name", "triple", "text", "format", "nothing"),
        *("class", "cost_name", "class_in_dictionary"),
    ],
)
def test_what_is_no_budget_is_refused(arguments, received):
    with pytest.raises(ValueError, match=f"Received: .*{received}"):
        fliqs_keras.FormatSearch(**arguments, controller="reinforce")
    if isinstance(arguments["cost_target"], dict):
        return
    target, cost = arguments["cost_target"], arguments.get("cost")
    if target is not None:
        with pytest.raises(ValueError, match=f"Received: .*{received}"):
            fliqs_keras.budget(build_net(), TIED, cost, target)


def test_fixed_formats_take_separate_decisions():
    model = make_model(SEPARATE)
    assignment = {
        "body": "INT8",
        "body:input": "INT6",
        "head": "INT4",
        "head:input": "INT8",
    }
    x, y = make_data()
    fixed = fliqs_keras.FixedFormats(assignment)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[fixed])
    for layer in quantized_layers(model):
        name = layer.name
        assert layer.weight_quantizers[0].format.name == assignment[name]
        assert layer.input_quantizer.format.name == assignment[f"{name}:input"]


@pytest.mark.parametrize("name", SPACES)
def test_model_saves_and_exports_with_its_decisions(name, tmp_path):
    model = fliqs_keras.apply(build_net(), SPACES[name])
    x, _ = make_data()
    fliqs_keras.calibrate(model, x)
    chosen = {
        decision: formats[0]
        for decision, formats in SPACES[name].decisions(build_net()).items()
    }
    assignment = fliqs_keras.FormatAssignment(chosen)
    assignment.apply_to(model)
    assignment.to_json(tmp_path / "assignment.json")
    read = fliqs_keras.FormatAssignment.from_json(tmp_path / "assignment.json")
    assert read == assignment
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert fliqs_keras.FormatAssignment.from_model(loaded) == assignment
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", SPACES)
def test_file_computes_what_the_model_does(name, tmp_path):
    model = make_model(SPACES[name])
    x, _ = make_data()
    fliqs_keras.calibrate(model, x)
    path = tmp_path / "model.tflite"
    fliqs_keras.export_tflite(model, path)
    outputs = fliqs_keras.run_tflite(path, x)
    np.testing.assert_allclose(
        outputs, model.predict(x, verbose=0), rtol=1e-4, atol=1e-4
    )


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
