"""Latency as a cost, and the files of ops that it is measured on."""

import json
import re
import sys

import keras
import numpy as np
import pytest
from keras import layers

import fliqs_keras
from fliqs_keras.export.flatbuffer import read_model
from fliqs_keras.export.graph import Graph
from recipes import measure_latency

FORMATS = ["INT4", "INT8"]


def build_net():
    shared = layers.Dense(4, name="shared")
    inputs = keras.Input((6, 4))
    x = shared(shared(inputs))
    x = layers.Conv1D(3, 2, name="conv")(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


@pytest.fixture(scope="module")
def model():
    return fliqs_keras.apply(build_net(), FORMATS)


@pytest.fixture(scope="module")
def paths(model, tmp_path_factory):
    return fliqs_keras.export_ops(model, tmp_path_factory.mktemp("ops"))


def write_table(path, times):
    path.write_text(json.dumps({"milliseconds": times}))
    return path


@pytest.mark.tensorflow
def test_a_file_holds_one_op_in_its_formats(paths):
    assert len(paths) == 3 * len(FORMATS)
    for name, path in paths.items():
        content = read_model(path.read_bytes())
        graph = Graph(content, content.subgraphs[0])
        kinds = [graph.kind(op) for op in graph.ops]
        computing = {"CONV_2D", "FULLY_CONNECTED"} & set(kinds)
        assert len(computing) == 1, kinds
        (weight, read) = re.findall("INT[48]", name)
        assert weight == read
        assert graph.shape(content.subgraphs[0].inputs[0])[0] == 1


@pytest.mark.tensorflow
def test_layers_that_follow_may_be_quantized(tmp_path):
    x = inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(3, 2, use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dense(2)(layers.GlobalAveragePooling2D()(x))
    names = [
        set(
            fliqs_keras.export_ops(
                fliqs_keras.apply(keras.Model(inputs, x), "INT8", **options),
                tmp_path / f"{len(options)}",
            )
        )
        for options in ({}, {"every_tensor": "INT8"})
    ]
    assert names[0] == names[1] and len(names[0]) == 2


def build_folded_net(batch=None):
    inputs = keras.Input((4, 8), batch_size=batch)
    x = layers.Dense(5)(keras.ops.reshape(inputs, (-1, 8)))
    return keras.Model(inputs, keras.ops.reshape(x, (-1, 4, 5)))


@pytest.mark.tensorflow
@pytest.mark.parametrize("batch", [None, 3])
def test_positions_folded_into_the_batch_are_in_the_file(batch, tmp_path):
    model = fliqs_keras.apply(build_folded_net(batch), "INT8")
    [(name, path)] = fliqs_keras.export_ops(model, tmp_path).items()
    assert name.startswith("Dense-4of8-")
    content = read_model(path.read_bytes())
    graph = Graph(content, content.subgraphs[0])
    assert list(graph.shape(content.subgraphs[0].inputs[0])) == [4, 8]


def test_parts_of_examples_are_refused(tmp_path):
    inputs = keras.Input((4, 2), batch_size=3)
    x = layers.Dense(5, name="odd")(keras.ops.reshape(inputs, (4, 6)))
    model = fliqs_keras.apply(keras.Model(inputs, x), "INT8")
    with pytest.raises(ValueError, match="'odd', which reads 4 rows"):
        fliqs_keras.export_ops(model, tmp_path)


@pytest.mark.tensorflow
def test_names_tell_the_settings_of_layers_that_follow(tmp_path):
    def names_with(norm, relu):
        inputs = keras.Input((2,))
        x = relu(norm(layers.Dense(3, name="dense")(inputs)))
        model = fliqs_keras.apply(keras.Model(inputs, x), "INT8")
        return set(fliqs_keras.export_ops(model, tmp_path))

    usual = names_with(layers.BatchNormalization(), layers.ReLU())
    # As in the tables that were measured before settings counted.
    assert usual == {"Dense-2-bbbbf2f7-INT8-INT8"}
    own = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
    assert names_with(own, layers.ReLU()) == usual
    others = [layers.ReLU(negative_slope=0.3), layers.ReLU(max_value=6)]
    found = [names_with(layers.BatchNormalization(), x) for x in others]
    assert len(set.union(usual, *found)) == 3


@pytest.mark.tensorflow
def test_files_that_are_there_are_kept(model, paths):
    folder = next(iter(paths.values())).parent
    before = {path: path.stat().st_mtime_ns for path in paths.values()}
    assert fliqs_keras.export_ops(model, folder) == paths
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.tensorflow
def test_each_use_of_a_layer_takes_its_time(model, paths, tmp_path):
    times = dict(zip(paths, [1.0, 2.0, 10.0, 20.0, 100.0, 200.0], strict=True))
    cost = fliqs_keras.LatencyTable(write_table(tmp_path / "t.json", times))
    chosen = {"shared": "INT8", "conv": "INT4", "head": "INT8"}
    # The shared layer runs twice.
    assert cost(model, chosen) == 2 * 2.0 + 10.0 + 200.0
    np.testing.assert_array_equal(cost.table(model)[0], [2.0, 4.0])


def test_missing_op_is_refused(model, tmp_path):
    table = write_table(tmp_path / "t.json", {})
    with pytest.raises(ValueError, match="none for 'Dense-6x4"):
        fliqs_keras.LatencyTable(table).terms(model)


@pytest.mark.parametrize(
    "content",
    [
        *("{", "[]", "{}"),
        '{"milliseconds": {"a": 0}}',
        '{"milliseconds": {"a": Infinity}}',
    ],
    ids=str,
)
def test_broken_table_is_refused(content, tmp_path):
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(ValueError, match="Received"):
        fliqs_keras.LatencyTable(tmp_path / "t.json")


@pytest.mark.tensorflow
def test_recipe_measures_and_checks(tmp_path):
    formats = ["INT8"]
    model = measure_latency.build("conv_net", 8, formats)
    table = tmp_path / "t.json"
    for _ in range(2):
        measure_latency.measure_ops(model, tmp_path, table, 2, "compact")
    pairs = measure_latency.check(
        model, formats, tmp_path, table, 1, 2, "compact"
    )
    ((predicted, measured),) = pairs
    times = json.loads(table.read_text())["milliseconds"]
    assert predicted == pytest.approx(sum(times.values()))
    assert measured > 0
    with pytest.raises(ValueError, match="Choose another --table"):
        measure_latency.measure_ops(model, tmp_path, table, 2, "fast")


@pytest.mark.tensorflow
def test_tables_of_times_alone_are_added_to(tmp_path, monkeypatch):
    monkeypatch.setattr(
        measure_latency,
        "measure",
        lambda paths, rounds: dict.fromkeys(paths, 2.0),
    )
    monkeypatch.setattr(
        fliqs_keras, "export_ops", lambda *_: dict.fromkeys(["a", "b"])
    )
    table = write_table(tmp_path / "table.json", {"a": 1.0})
    measure_latency.measure_ops(None, tmp_path, table, 2, "fast")
    content = json.loads(table.read_text())
    assert content["milliseconds"] == {"a": 1.0, "b": 2.0}
    assert content["weight_storage"] == "fast"


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
