"""Targets, and that samples of their spaces are exported as they say."""

import json
import sys

import keras
import pytest
from keras import layers

import fliqs_keras
from recipes import check_target

NAMES = ["bf16-fp8-accelerator", "integer-any", "litert-cpu", "tfmicro-int8"]


def build_net():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(7, 4, name="table")(inputs)
    x = layers.Conv1D(3, 2, name="conv")(x)
    x = layers.LSTM(4, unroll=True, name="lstm")(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


@pytest.mark.parametrize("name", NAMES)
def test_targets_of_the_package_are_read(name):
    target = fliqs_keras.Target.named(name)
    assert target.name == name
    assert target.version >= 1
    assert target.formats_of("Dense")


def test_space_holds_what_the_target_runs():
    space = fliqs_keras.SearchSpace.for_target("litert-cpu", build_net())
    names = {k: {f.name for f in v} for k, v in space.formats.items()}
    assert "INT2" in names["conv"] & names["head"] & names["lstm"]
    assert "INT2" not in names["table"]
    space = fliqs_keras.SearchSpace.for_target("tfmicro-int8", build_net())
    assert set(space.formats) == {"conv", "head"}


def test_target_without_a_layer_is_refused():
    model = keras.Sequential([keras.Input((3,)), layers.Embedding(7, 4)])
    with pytest.raises(ValueError, match="that target 'tfmicro-int8' runs"):
        fliqs_keras.SearchSpace.for_target("tfmicro-int8", model)


def test_unknown_target_is_refused():
    with pytest.raises(ValueError, match="'litert-cpu'.*Received: 'phone'"):
        fliqs_keras.Target.named("phone")


RULE = {"layers": ["Dense"], "formats": {"INT8": "INT8"}}
CONTENT = {"name": "mine", "version": 1, "description": "", "rules": [RULE]}


def test_own_target_is_read(tmp_path):
    (tmp_path / "t.json").write_text(json.dumps(CONTENT))
    target = fliqs_keras.Target.from_json(tmp_path / "t.json")
    space = fliqs_keras.SearchSpace.for_target(target, build_net())
    assert set(space.formats) == {"head"}
    assert target.stored_as("Dense", "INT8") == "INT8"
    assert target.stored_as("Conv2D", "INT8") is None


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        json.dumps({**CONTENT, "rules": [{"layers": ["Dense"]}]}),
        json.dumps({**CONTENT, "rules": [{**RULE, "formats": {"X": ""}}]}),
        json.dumps({**CONTENT, "rules": [{**RULE, "formats": {}}]}),
        json.dumps({**CONTENT, "rules": [{**RULE, "formats": ["INT8"]}]}),
        json.dumps({**CONTENT, "rules": [{**RULE, "layers": "Dense"}]}),
        json.dumps({**CONTENT, "rules": [{**RULE, "layers": [["Dense"]]}]}),
        json.dumps({**CONTENT, "rules": None}),
    ],
    ids=[
        *("no_json", "no_object", "rule", "format", "no_format"),
        *("list_of_formats", "layer", "list_of_lists", "no_rules"),
    ],
)
def test_broken_target_is_refused(content, tmp_path):
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(ValueError, match="Received"):
        fliqs_keras.Target.from_json(tmp_path / "t.json")


@pytest.mark.tensorflow
@pytest.mark.parametrize("network", ["conv_net", "separable_net"])
def test_samples_are_exported_as_the_target_says(network, tmp_path):
    assert check_target.check("litert-cpu", network, 2, tmp_path) == []


@pytest.mark.tensorflow
def test_what_the_target_does_not_say_is_found(tmp_path):
    # A target that says another type than the exporter writes.
    target = fliqs_keras.Target.named("litert-cpu")
    wrong = {f: "INT2" for f in target.rules[-1].formats}
    rules = (target.rules[-1]._replace(formats=wrong),)
    target = fliqs_keras.Target("wrong", 1, "", rules)
    assert check_target.check(target, "conv_net", 1, tmp_path)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
