"""The summary of a quantized model, against numbers worked by hand."""

import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

import fliqs_keras


def build_net():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="stem")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(5, use_bias=False, name="head")(x))


def test_summary_by_hand():
    model = fliqs_keras.apply(build_net(), {"stem": "INT4", "head": "E4M3"})
    summary = fliqs_keras.summary(model)
    stem, head = summary.quantized
    assert (stem.path, stem.layer_class) == ("stem", "Conv2D")
    assert (stem.weight_format, stem.activation_format) == ("INT4", "INT4")
    assert stem.parameters == 3 * 3 * 3 * 4 + 4
    assert stem.macs == 6 * 6 * 3 * 3 * 3 * 4
    # Half a byte for each weight, four for each bias.
    assert stem.bytes == 108 // 2 + 4 * 4
    assert (head.weight_format, head.bytes, head.macs) == ("E4M3", 20, 20)
    [norm] = summary.left_out
    assert (norm.path, norm.parameters, norm.bytes) == ("norm", 16, 64)
    assert "elementwise" in norm.reason


def test_summary_shows_layers_whatever_decides_on_them():
    space = fliqs_keras.SearchSpace("INT4", activations="INT8", groups="*")
    model = fliqs_keras.apply(build_net(), space)
    stem, head = fliqs_keras.summary(model).quantized
    assert (stem.path, head.path) == ("stem", "head")
    assert (stem.weight_format, stem.activation_format) == ("INT4", "INT8")
    assert (stem.macs, head.macs) == (6 * 6 * 3 * 3 * 3 * 4, 20)


def test_table_shows_every_layer():
    model = fliqs_keras.apply(build_net(), {"stem": "INT4", "head": "E4M3"})
    lines = str(fliqs_keras.summary(model)).splitlines()
    assert lines == [
        "layer  class   weights  activations  parameters   MACs  bytes",
        "stem   Conv2D  INT4     INT4                112  3,888     70",
        "head   Dense   E4M3     E4M3                 20     20     20",
        "",
        "Bytes of all weights: 154",
        "",
        "left in float  class               parameters  reason",
        "norm           BatchNormalization          16  "
        "elementwise, not a multiplication of matrices",
    ]


class Reaching(keras.Model):
    """Reads weights of its layers itself, if it is told to."""

    def __init__(self, reaches):
        super().__init__()
        self.reaches = reaches
        self.table = layers.Embedding(5, 4, name="table")
        self.rnn = layers.SimpleRNN(4, name="rnn")

    def call(self, ids):
        rows = self.table(ids)
        state = self.rnn(rows)
        if not self.reaches:
            return state
        x, _ = self.rnn.cell(rows[:, 0], [state])
        return ops.matmul(x, ops.transpose(self.table.embeddings))


@pytest.mark.parametrize("reaches", [True, False])
def test_weights_that_are_read_outside_of_their_layer_are_listed(reaches):
    model = Reaching(reaches)
    model(np.zeros((2, 3), "int32"))
    model = fliqs_keras.apply(model, "INT8", inplace=True)
    rows = [
        (row.path, row.parameters, row.bytes)
        for row in fliqs_keras.summary(model).left_out
        if "outside" in row.reason
    ]
    # The cell reads 4 x 4 and 4 x 4 weights.
    expected = [("table", 20, 80), ("rnn", 32, 128)]
    assert rows == (expected if reaches else [])


def test_sizes_add_no_parameters_and_no_rows():
    inputs = keras.Input((4,))
    x = layers.Dense(8, activation="relu", name="stem")(inputs)
    y = layers.Dense(8, name="branch")(x)
    x = layers.Add(name="sum")([x, y])
    net = keras.Model(inputs, layers.Dense(2, name="head")(x))
    sizes = [
        fliqs_keras.nas.Width("stem", [4, 8]),
        fliqs_keras.nas.Skip("sum"),
    ]
    space = fliqs_keras.SearchSpace(["INT4", "INT8"], architecture=sizes)
    for tensor_format in (None, "INT8"):
        plain, sized = (
            fliqs_keras.summary(
                fliqs_keras.apply(net, formats, every_tensor=tensor_format)
            )
            for formats in (["INT4", "INT8"], space)
        )
        assert plain == sized


def test_macs_are_unknown_where_the_size_of_the_input_is():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, layers.Conv2D(4, 3)(inputs))
    summary = fliqs_keras.summary(fliqs_keras.apply(model, "INT8"))
    assert [row.macs for row in summary.quantized] == [None]
    assert "?" in summary.render()


def test_model_summary_of_keras_still_works():
    lines = []
    model = fliqs_keras.apply(build_net(), "INT4")
    model.summary(print_fn=lines.append)
    assert "QuantizedConv2D" in "".join(lines)


def test_float_model_is_refused():
    with pytest.raises(ValueError, match="Call `fliqs_keras.apply`"):
        fliqs_keras.summary(build_net())


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
