"""Costs and assignments on nets whose numbers are worked by hand."""

import json
import sys

import keras
import numpy as np
import pytest
from keras import layers

import fliqs_keras
from fliqs_keras import macs


def build_net():
    # Multiply-accumulates: 6*6*(3*3*2*4) = 2592, 2*2*(3*3*4) = 144,
    # 2*2*(4*5) = 80 (a dense layer at each position), 5*3 = 15.
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.DepthwiseConv2D(3, strides=2, name="depthwise")(x)
    x = keras.Sequential([layers.Dense(5, name="dense")], name="inner")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


MACS = {"conv": 2592, "depthwise": 144, "inner/dense": 80, "head": 15}


@pytest.fixture(scope="module")
def model():
    return fliqs_keras.apply(build_net(), ["INT2", "E2M1", "INT8", "BF16"])


def test_macs_are_those_of_the_shapes(model):
    assert macs.count_macs(model) == MACS


@pytest.mark.parametrize(
    "name, bits", [("INT2", 2), ("E2M1", 4), ("INT8", 8), ("BF16", 16)]
)
def test_uniform_cost_is_macs_times_bits_squared(model, name, bits):
    uniform = fliqs_keras.FormatAssignment(dict.fromkeys(MACS, name))
    assert fliqs_keras.BitOps()(model, uniform) == pytest.approx(
        sum(MACS.values()) * bits**2 / 1e9
    )


def test_shared_layer_counts_at_each_use():
    dense = layers.Dense(4, name="dense")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, dense(dense(inputs)))
    quantized = fliqs_keras.apply(model, "INT8")
    assert macs.count_macs(quantized) == {"dense": 32}


@pytest.mark.parametrize("batch", [None, 3])
def test_positions_folded_into_the_batch_count(batch):
    inputs = keras.Input((4, 8), batch_size=batch)
    x = keras.ops.reshape(inputs, (-1, 8))
    x = layers.Dense(5, name="folded")(x)
    x = keras.ops.reshape(x, (-1, 4, 5))
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    # Each at 4 positions.
    expected = {"folded": 4 * 8 * 5, "head": 4 * 5 * 2}
    assert macs.count_macs(fliqs_keras.apply(model, "INT8")) == expected


def test_sequential_model_is_counted():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    cost = fliqs_keras.BitOps()(fliqs_keras.apply(model, "INT8"))
    assert cost == pytest.approx(4 * 2 * 64 / 1e9)


SEPARATE = fliqs_keras.SearchSpace(
    ["INT2", "INT8"], activations=["INT4", "BF16"]
)


def test_separate_activations_cost_the_product_of_both_widths():
    model = fliqs_keras.apply(build_net(), SEPARATE)
    terms = {t.decisions: t.values for t in fliqs_keras.BitOps().terms(model)}
    assert set(terms) == {(name, f"{name}:input") for name in MACS}
    np.testing.assert_allclose(
        terms["conv", "conv:input"] * 1e9,
        2592 * np.array([[2 * 4, 2 * 16], [8 * 4, 8 * 16]]),
    )
    formats = {n: "INT2" for n in MACS} | {f"{n}:input": "BF16" for n in MACS}
    cost = fliqs_keras.BitOps()(model, formats)
    assert cost * 1e9 == pytest.approx(sum(MACS.values()) * 2 * 16)
    with pytest.raises(ValueError, match="conv:input"):
        fliqs_keras.BitOps().table(model)


def test_float_activations_count_as_32_bits():
    space = fliqs_keras.SearchSpace("INT2", activations=None)
    model = fliqs_keras.apply(build_net(), space)
    cost = fliqs_keras.BitOps()(model)
    assert cost * 1e9 == pytest.approx(sum(MACS.values()) * 2 * 32)


def test_group_costs_what_its_layers_cost():
    space = fliqs_keras.SearchSpace(["INT2", "INT8"], groups="*")
    [row] = fliqs_keras.BitOps().table(fliqs_keras.apply(build_net(), space))
    total = sum(MACS.values())
    np.testing.assert_allclose(row * 1e9, [total * 4, total * 64])


def test_cost_of_incomplete_assignment_is_refused(model):
    with pytest.raises(ValueError, match="none for 'depthwise'"):
        fliqs_keras.BitOps()(model, {"conv": "INT2"})


@pytest.mark.parametrize(
    "cost", [fliqs_keras.BitOps(), fliqs_keras.ActivationBytes()], ids=type
)
def test_cost_of_decisions_of_no_layer_is_refused(cost, model):
    chosen = dict.fromkeys([*MACS, "typo"], "INT2")
    with pytest.raises(ValueError, match=r"besides: \['typo'\]"):
        cost(model, chosen)


class OwnInput(fliqs_keras.SwitchableQuantizeConfig):
    """Decides on the input apart from the weights."""

    def get_input_quantizer(self, layer):
        return fliqs_keras.ActivationQuantizer(
            ["INT4", "INT8", "BF16"], decision="head:input"
        )


def apply_to_dense(formats, config=None):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="head")])
    configs = None if config is None else {"head": config}
    return fliqs_keras.apply(model, formats, quantize_configs=configs)


def test_separate_decisions_make_a_term_of_both():
    model = apply_to_dense(["INT2", "INT8"], OwnInput())
    (term,) = fliqs_keras.BitOps().terms(model)
    assert term.decisions == ("head", "head:input")
    # 4 x 2 multiplications, bits of the weight in rows.
    expected = 8 * np.array([[2 * 4, 2 * 8, 2 * 16], [8 * 4, 8 * 8, 8 * 16]])
    np.testing.assert_allclose(term.values * 1e9, expected)
    chosen = {"head": "INT8", "head:input": "INT4"}
    cost = fliqs_keras.BitOps()
    assert cost(model, chosen) * 1e9 == pytest.approx(8 * 8 * 4)
    with pytest.raises(ValueError, match="all of .*'head', 'head:input'"):
        cost.table(model)


def test_table_takes_a_second_decision_without_choice():
    model = apply_to_dense("INT2", OwnInput())
    weight, reads = fliqs_keras.BitOps().table(model)
    np.testing.assert_allclose(weight * 1e9, [0])
    np.testing.assert_allclose(reads * 1e9, 8 * 2 * np.array([4, 8, 16]))


def test_float_input_has_32_bits():
    config = fliqs_keras.SwitchableQuantizeConfig(quantize_input=False)
    (term,) = fliqs_keras.BitOps().terms(apply_to_dense("INT2", config))
    np.testing.assert_allclose(term.values * 1e9, [8 * 2 * 32])


class Sum(fliqs_keras.Cost):
    """Terms given by hand."""

    unit = "1"

    def __init__(self, *terms):
        self.given = [fliqs_keras.CostTerm(*term) for term in terms]

    def terms(self, model):
        return self.given


def test_terms_add_up_and_a_constant_is_in_the_first_row():
    model = fliqs_keras.apply(build_net(), ["INT2", "INT8"])
    cost = Sum(
        ((), np.array(5.0)),
        (("head",), np.array([1.0, 2.0])),
        (("head",), np.array([10.0, 20.0])),
    )
    chosen = {**dict.fromkeys(MACS, "INT2"), "head": "INT8"}
    assert cost(model, chosen) == 5 + 2 + 20
    rows = dict(zip(MACS, cost.table(model), strict=True))
    np.testing.assert_array_equal(rows["conv"], [5, 5])
    np.testing.assert_array_equal(rows["head"], [11, 22])
    np.testing.assert_array_equal(rows["depthwise"], [0, 0])


def test_terms_on_decisions_of_no_layer_are_refused(model):
    cost = Sum((("hed",), np.zeros(4)))
    for call in (cost, cost.table):
        with pytest.raises(ValueError, match=r"a Sum with terms on \['hed'\]"):
            call(model)


def test_weighted_costs_add_up(model):
    bit_ops, weight_bytes = fliqs_keras.BitOps(), fliqs_keras.WeightBytes()
    cost = fliqs_keras.weighted({bit_ops: 2.0, weight_bytes: 0.5})
    chosen = dict(zip(MACS, ["INT2", "E2M1", "INT8", "BF16"], strict=True))
    expected = 2 * bit_ops(model, chosen) + 0.5 * weight_bytes(model, chosen)
    assert cost(model, chosen) == pytest.approx(expected)
    assert cost.unit == "2 GBOPs + 0.5 bytes"
    with pytest.raises(ValueError, match="at least one cost"):
        fliqs_keras.weighted({})
    with pytest.raises(ValueError, match="Received: <class .*BitOps"):
        fliqs_keras.weighted({fliqs_keras.BitOps: 1.0})


def test_assignment_round_trips(model, tmp_path):
    assignment = fliqs_keras.FormatAssignment(
        dict(zip(MACS, ["INT2", "E2M1", "INT8", "BF16"], strict=True))
    )
    assignment.apply_to(model)
    assert fliqs_keras.FormatAssignment.from_model(model) == assignment
    assignment.to_json(tmp_path / "assignment.json")
    read = fliqs_keras.FormatAssignment.from_json(tmp_path / "assignment.json")
    assert read == assignment
    assert hash(read) == hash(assignment)
    names = json.loads((tmp_path / "assignment.json").read_text())
    assert names["inner/dense"] == "INT8"


def test_assignment_is_immutable(model):
    assignment = fliqs_keras.FormatAssignment.from_model(model)
    with pytest.raises(TypeError):
        assignment["conv"] = "INT2"


@pytest.mark.parametrize(
    "change",
    [
        lambda formats: formats.pop("conv"),
        lambda formats: formats.update(stranger="INT8"),
        lambda formats: formats.update(conv="INT3"),
    ],
    ids=["missing", "stranger", "foreign_format"],
)
def test_wrong_assignment_changes_nothing(model, change):
    before = fliqs_keras.FormatAssignment.from_model(model)
    formats = dict.fromkeys(MACS, "E2M1")
    change(formats)
    with pytest.raises(ValueError, match="Received"):
        fliqs_keras.FormatAssignment(formats).apply_to(model)
    assert fliqs_keras.FormatAssignment.from_model(model) == before


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[1]",
        '{"a": "INT99"}',
        '{"options": {"a": "INT8"}}',
        '{"options": {"a": "INT8"}, "layers": {"b": {"weights": "a"}}}',
        '{"options": {}, "layers": {"b": {"weights": "a", "activations": 1}}}',
    ],
)
def test_broken_file_is_refused(content, tmp_path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match="Received"):
        fliqs_keras.FormatAssignment.from_json(tmp_path / "a.json")


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
