"""Search spaces: presets, unions, decisions, groups, JSON."""

import json
import sys

import keras
import pytest
from keras import layers

import fliqs_keras
from fliqs_keras import FLIQS_L, FLIQS_S, FLIQS_S_FLOAT, SearchSpace
from fliqs_keras.assignments import decisions
from fliqs_keras.quantized_layers import quantized_layers
from tests.testing import SubclassedModel


@keras.saving.register_keras_serializable(package="fliqs_keras_tests")
class RegisteredDense(layers.Dense):
    """A class that JSON can name."""


class UnregisteredDense(layers.Dense):
    """A class that it cannot."""


def build_net():
    x = inputs = keras.Input((4,))
    x = layers.Dense(4, name="block1_a")(x)
    x = layers.Dense(4, name="block1_b")(x)
    left = layers.Dense(4, name="left")(x)
    right = layers.Dense(4, name="right")(x)
    x = layers.Add(name="add")([left, right])
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


PAIR = ["INT4", "INT8"]
NAMES = ["block1_a", "block1_b", "left", "right", "head"]


def names(formats):
    return [f.name for f in formats]


def test_presets_are_those_of_the_paper():
    integers = [f"INT{width}" for width in (4, 5, 6, 7, 8)]
    assert names(FLIQS_L.formats) == integers
    assert names(FLIQS_S.formats) == ["INT4", "INT8"]
    assert names(FLIQS_S_FLOAT.formats) == ["E2M1", "E4M3"]
    assert [f.bits for f in fliqs_keras.FLIQS_L_FLOAT.formats] == [
        4,
        5,
        6,
        7,
        8,
    ]


def test_union_holds_the_formats_of_both_once():
    union = FLIQS_S | FLIQS_S_FLOAT | FLIQS_L
    assert names(union.formats) == [
        "INT4",
        "INT8",
        "E2M1",
        "E4M3",
        "INT5",
        "INT6",
        "INT7",
    ]


def test_union_keeps_separate_activations():
    a = SearchSpace("INT4", activations=["INT8"])
    b = SearchSpace("INT6", activations=["E4M3"])
    united = a | b
    assert names(united.formats) == ["INT4", "INT6"]
    assert names(united.activations) == ["INT8", "E4M3"]


@pytest.mark.parametrize(
    "other",
    [
        SearchSpace("INT2", exclude="head"),
        SearchSpace({"head": "INT2"}),
        SearchSpace("INT2", activations=None),
    ],
    ids=["exclude", "by_layer", "activations"],
)
def test_union_of_unlike_spaces_is_refused(other):
    with pytest.raises(ValueError, match="Received"):
        _ = FLIQS_S | other


SPACES = {
    "tied": (SearchSpace(["INT4", "INT8"]), NAMES, 2**5),
    "weights_only": (
        SearchSpace(["INT4", "INT8"], activations=None),
        NAMES,
        2**5,
    ),
    "separate": (
        SearchSpace(["INT4", "INT8"], activations=["INT4", "INT6", "INT8"]),
        [n + end for n in NAMES for end in ("", ":input")],
        6**5,
    ),
    "separate_by_layer": (
        SearchSpace(
            {"head": "INT8", "*": ["INT2", "INT4"]},
            activations={"block1_*": ["INT4", "INT8"]},
        ),
        ["block1_a", "block1_a:input", "block1_b", "block1_b:input"]
        + ["left", "right", "head"],
        2**6,
    ),
    "groups": (
        SearchSpace(["INT4", "INT8"], groups=["block1_*", "*t"]),
        ["block1_*", "*t", "head"],
        2**3,
    ),
    "network": (SearchSpace(["INT4", "INT8"], groups="*"), ["*"], 2),
    "network_separate": (
        SearchSpace("INT4", activations=["INT4", "INT8"], groups="*"),
        ["*", "*:input"],
        2,
    ),
    "shared_inputs": (
        SearchSpace(["INT4", "INT8"], shared_inputs=True),
        ["block1_a", "block1_b", "left+right", "head"],
        2**4,
    ),
    "shared_inputs_separate": (
        SearchSpace("INT4", activations=["INT4", "INT8"], shared_inputs=True),
        ["block1_a", "block1_a:input", "block1_b", "block1_b:input"]
        + ["left", "left+right:input", "right", "head", "head:input"],
        2**4,
    ),
    "shared_inputs_join_groups": (
        SearchSpace(
            ["INT4", "INT8"], groups=["block1_b", "*eft"], shared_inputs=True
        ),
        ["block1_a", "block1_b", "*eft+right", "head"],
        2**4,
    ),
}


@pytest.mark.parametrize("name", SPACES)
def test_decisions_are_those_of_apply(name):
    space, expected, size = SPACES[name]
    net = build_net()
    assert list(space.decisions(net)) == expected
    assert space.size(net) == size
    model = fliqs_keras.apply(net, space)
    assignment = fliqs_keras.FormatAssignment.from_model(model)
    assert list(assignment) == expected


@pytest.mark.parametrize("name", SPACES)
def test_space_round_trips_through_json(name, tmp_path):
    space = SPACES[name][0]
    space.to_json(tmp_path / "space.json")
    assert SearchSpace.from_json(tmp_path / "space.json") == space


def test_classes_go_by_their_registered_names(tmp_path):
    space = SearchSpace(
        "INT4", include=[layers.Dense, RegisteredDense], exclude="head"
    )
    space.to_json(tmp_path / "space.json")
    assert SearchSpace.from_json(tmp_path / "space.json") == space
    content = json.loads((tmp_path / "space.json").read_text())
    assert content["include"] == [
        {"class": "keras.layers.Dense"},
        {"class": "fliqs_keras_tests>RegisteredDense"},
    ]


@pytest.mark.parametrize(
    "selector, message",
    [
        (lambda path, layer: True, "the function .* as patterns"),
        (UnregisteredDense, "register_keras_serializable"),
    ],
    ids=["function", "unregistered"],
)
def test_what_json_cannot_hold_is_refused(selector, message, tmp_path):
    space = SearchSpace("INT4", exclude=selector)
    with pytest.raises(ValueError, match=message):
        space.to_json(tmp_path / "space.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"exclude": []}',
        '{"formats": ["INT4"], "layers": 3}',
        '{"formats": ["INT99"]}',
        '{"formats": ["INT4"], "exclude": [{"class": "nobody>Knows"}]}',
        '{"formats": ["INT4"], "include": [3]}',
    ],
)
def test_broken_json_is_refused(content, tmp_path):
    (tmp_path / "space.json").write_text(content)
    with pytest.raises(ValueError, match="Received"):
        SearchSpace.from_json(tmp_path / "space.json")


@pytest.mark.parametrize("name", ["separate", "shared_inputs_separate"])
def test_assignment_with_inputs_is_a_search_space(name):
    model = fliqs_keras.apply(build_net(), SPACES[name][0])
    wanted = {
        decision: "INT8" if decision.endswith(":input") else "INT4"
        for decision in fliqs_keras.FormatAssignment.from_model(model)
    }
    again = fliqs_keras.apply(build_net(), wanted)
    found = fliqs_keras.FormatAssignment.from_model(again)
    assert {f.name for n, f in found.items() if ":" in n} == {"INT8"}
    assert {f.name for n, f in found.items() if ":" not in n} == {"INT4"}
    assert {n for n in found if ":" in n} == {f"{n}:input" for n in NAMES}


@pytest.mark.parametrize(
    "formats, in_float",
    [
        ({"*": PAIR, "left:input": "INT8"}, True),
        ({"*": PAIR, "left:input": "INT8", "*:input": "INT4"}, False),
        ({"left+right": PAIR, "left+right:input": "INT8"}, False),
        (fliqs_keras.FormatAssignment({"left": "INT4"}), False),
        (
            fliqs_keras.FormatAssignment({"*": "INT4", "left:input": "INT8"}),
            False,
        ),
    ],
    ids=["some", "all", "each", "tied", "assignment"],
)
def test_inputs_that_no_name_selects_are_logged(formats, in_float, caplog):
    fliqs_keras.apply(build_net(), SearchSpace(formats))
    logged = caplog.text.count("none of ['left:input'] selects stay in float")
    assert logged == in_float


def test_a_name_with_a_plus_is_that_of_one_layer_first():
    def build(*paths):
        x = inputs = keras.Input((4,))
        for path in paths:
            x = layers.Dense(4, name=path)(x)
        return keras.Model(inputs, x)

    net = build("a+b", "b")
    formats = {"b": "INT8", "a+b": "INT4", "a+b:input": "INT2"}
    found = SearchSpace(formats).decisions(net)
    assert {k: names(v) for k, v in found.items()} == {
        "a+b": ["INT4"],
        "a+b:input": ["INT2"],
        "b": ["INT8"],
        "b:input": ["INT2"],
    }
    space = SearchSpace.for_target("litert-cpu", net)
    assert list(space.decisions(net)) == ["a+b", "b"]
    # Of two layers, whatever selects one of them besides.
    found = SearchSpace({"?": "INT8", "a+b": "INT4"}).decisions(build("a", "b"))
    assert [names(v) for v in found.values()] == [["INT4"], ["INT4"]]


def formats_by_layer(model):
    """The formats that each quantizer of each layer stands on."""
    return {
        layer.name: {q.name: q.format.name for q in layer.quantizers()}
        for layer in quantized_layers(model)
    }


# The last says whether the names of decisions tell the formats.
ROUND_TRIPS = {
    "weights_only": ({"activations": None}, None, False),
    "groups_and_exclude": ({"groups": "*", "exclude": "head"}, None, False),
    "overlapping_groups": ({"groups": ["*_b", "*"]}, None, False),
    "separate_group": (
        {"groups": "*", "activations": {"*t": PAIR}},
        None,
        False,
    ),
    "every_tensor_but_some": ({"exclude": ["left", "head"]}, "INT8", True),
    "every_tensor_of_a_group": ({"groups": "*"}, "INT8", True),
    "shared_inputs": ({"shared_inputs": True}, None, True),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_assignment_of_a_model_gives_back_its_formats(name, tmp_path):
    arguments, every_tensor, is_told = ROUND_TRIPS[name]
    space = SearchSpace(PAIR, **arguments)
    model = fliqs_keras.apply(build_net(), space, every_tensor=every_tensor)
    for number, decision in enumerate(decisions(model)):
        for switch in decision.switches:
            switch.index.assign(number % len(decision.options))
    assignment = fliqs_keras.FormatAssignment.from_model(model)
    assert (assignment.layers is None) == is_told
    assignment.to_json(tmp_path / "assignment.json")
    read = fliqs_keras.FormatAssignment.from_json(tmp_path / "assignment.json")
    for given in (fliqs_keras.FormatAssignment(assignment), read):
        again = fliqs_keras.apply(build_net(), given)
        assert formats_by_layer(again) == formats_by_layer(model)
        given.apply_to(model)


def test_arguments_go_before_what_an_assignment_of_a_model_says():
    space = SearchSpace(PAIR, groups="*", activations=PAIR)
    model = fliqs_keras.apply(build_net(), space)
    assignment = fliqs_keras.FormatAssignment.from_model(model)
    space = SearchSpace(assignment, activations=None, exclude="head")
    again = fliqs_keras.apply(build_net(), space)
    assert formats_by_layer(again) == {
        name: {"kernel_quantizer": "INT8"} for name in NAMES[:-1]
    }


@pytest.mark.parametrize(
    "space, message",
    [
        (
            {"formats": {"left": "INT4", "*": "INT8"}, "groups": "*t"},
            "'left' and .* for layer 'right'",
        ),
        (
            {
                "formats": "INT4",
                "activations": {"left": "INT4", "*": "INT8"},
                "shared_inputs": True,
            },
            r"'left\+right:input', .*'left' and .*'right'",
        ),
        ({"formats": "INT4", "groups": "blok*"}, "'blok\\*', which selects"),
        (
            {"formats": "INT4", "activations": {"hed": "INT4"}},
            "'hed', which selects none",
        ),
        ({"formats": "INT4", "groups": [layers.Dense]}, "hold patterns"),
        (
            {"formats": "INT4", "activations": None, "shared_inputs": True},
            "activations=None",
        ),
        ({"formats": "INT4", "activations": []}, "at least one format"),
        ({"formats": {layers.Dense: "INT4"}}, "`formats` by patterns"),
        (
            {"formats": "INT4", "activations": {layers.Dense: "INT4"}},
            "`activations` by patterns",
        ),
        (
            {"formats": "INT4", "exclude": layers.Dense(2, name="head")},
            "layer <Dense name=head.*path, 'head'",
        ),
        ({"formats": {"left+hed": "INT4"}}, "'hed', which selects none"),
        ({"formats": {"left": "INT4", "width": 16}}, "names of .*: 16.*sizes"),
        (
            {"formats": {"*": "INT4", "left": "INT8", "block1_*": "INT8"}},
            r"'block1_\*', .* by '\*'",
        ),
    ],
    ids=[
        "group_formats",
        "shared_formats",
        "no_group",
        "no_activations",
        "group_class",
        "shared_float",
        "empty",
        "class",
        "activations_class",
        "layer",
        "part",
        "size",
        "hidden_pattern",
    ],
)
def test_space_is_refused(space, message):
    with pytest.raises(ValueError, match=message):
        fliqs_keras.apply(build_net(), SearchSpace(**space))


def test_shared_inputs_need_a_graph():
    model = SubclassedModel(layers.Dense(2, name="dense"))
    model(keras.ops.zeros((1, 4)))
    with pytest.raises(ValueError, match="SearchSpace\\(groups"):
        fliqs_keras.apply(model, SearchSpace("INT4", shared_inputs=True))


def test_every_tensor_and_separate_activations_exclude_each_other():
    space = SearchSpace("INT4", activations="INT8")
    with pytest.raises(ValueError, match="not both"):
        fliqs_keras.apply(build_net(), space, every_tensor="INT8")


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
