"""Sizes that can be switched: against plain models of those sizes."""

import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

import fliqs_keras
from fliqs_keras import SearchSpace, nas
from fliqs_keras.assignments import decisions
from tests.backends import IS_TENSORFLOW
from tests.nas_models import FAMILIES, inverted_residual_net

# 70 of each family were tried; these are enough to see that something broke.
# JAX compiles each operation anew for every shape.
SAMPLES = 2 if IS_TENSORFLOW else 1


def make(family, every_tensor=None):
    """A searchable model whose weights and statistics are all random."""
    keras.utils.set_random_seed(0)
    build, space = FAMILIES[family]
    model = build()
    generator = np.random.default_rng(0)
    for layer in model.layers:
        for weight in layer.weights:
            shift = 0.3 * generator.normal(size=weight.shape)
            positive = "variance" in weight.path
            value = ops.convert_to_numpy(weight) + shift
            weight.assign(np.abs(value) + 0.1 if positive else value)
    model = fliqs_keras.apply(model, space(), every_tensor=every_tensor)
    x = generator.normal(size=(6, 8, 8, 3)).astype("float32")
    fliqs_keras.calibrate(model, x)
    return model, x


def sample(model, generator):
    return fliqs_keras.FormatAssignment(
        {
            d.name: d.options[generator.integers(len(d.options))]
            for d in decisions(model)
        }
    )


def predict(model, x):
    return ops.convert_to_numpy(model(x, training=False))


def assert_same(got, expected):
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.ptp(expected))


@pytest.mark.parametrize("family", FAMILIES)
def test_extracted_model_is_the_searched_one(family):
    model, x = make(family)
    generator = np.random.default_rng(1)
    for _ in range(SAMPLES):
        sample(model, generator).apply_to(model)
        small = nas.extract(model)
        assert_same(predict(small, x), predict(model, x))
        for cost in (fliqs_keras.BitOps(), fliqs_keras.WeightBytes()):
            assert cost(small) == pytest.approx(cost(model), rel=1e-9)
    assert small.count_params() < model.count_params()


def test_sequential_model_is_extracted():
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.Conv2D(8, 3, padding="same", name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(name="flat"),
            layers.Dense(3, name="head"),
        ]
    )
    choices = [nas.Width("conv", [3, 8]), nas.KernelSize("conv", [1, 3])]
    model = fliqs_keras.apply(
        model, SearchSpace(["INT4", "INT8"], architecture=choices)
    )
    x = np.random.default_rng(0).normal(size=(6, 4, 4, 2)).astype("float32")
    fliqs_keras.calibrate(model, x)
    chosen = {"conv": "INT4", "head": "INT8"}
    chosen |= {"conv:width": 3, "conv:kernel": 1}
    fliqs_keras.FormatAssignment(chosen).apply_to(model)
    model.get_layer("conv").bias.trainable = False
    small = nas.extract(model)
    assert not small.get_layer("conv").bias.trainable
    assert len(small.trainable_weights) == len(model.trainable_weights)
    assert small.get_layer("conv").kernel.shape == (1, 1, 2, 3)
    assert small.get_layer("head").kernel.shape == (48, 3)
    assert_same(predict(small, x), predict(model, x))


def test_convolution_over_sequences_keeps_its_kernel_size():
    model = keras.Sequential(
        [
            keras.Input((6, 2)),
            layers.Conv1D(8, 5, padding="same", name="first"),
            layers.Conv1D(4, 5, padding="same", name="second"),
            layers.GlobalAveragePooling1D(name="pool"),
            layers.Dense(3, name="head"),
        ]
    )
    choices = [nas.Width("first", [3, 8]), nas.KernelSize("second", [1, 5])]
    model = fliqs_keras.apply(
        model, SearchSpace(["INT4", "INT8"], architecture=choices)
    )
    x = np.random.default_rng(0).normal(size=(6, 6, 2)).astype("float32")
    fliqs_keras.calibrate(model, x)
    chosen = dict(fliqs_keras.FormatAssignment.from_model(model))
    for kernel_size in (5, 1):
        chosen |= {"first:width": 3, "second:kernel": kernel_size}
        fliqs_keras.FormatAssignment(chosen).apply_to(model)
        small = nas.extract(model)
        kernel = small.get_layer("second").kernel
        assert kernel.shape == (kernel_size, 3, 4)
        assert_same(predict(small, x), predict(model, x))


def test_search_of_sizes_is_logged_and_drawn(tmp_path):
    model = make_one_block()
    model.compile("sgd", "mse")
    x = np.zeros((16, 6, 6, 3), "float32")
    search = fliqs_keras.FormatSearch(
        ("INT4", 0.4), controller="reinforce", seed=0, log_dir=tmp_path
    )
    y = np.zeros((16, 2), "float32")
    model.fit(x, y, batch_size=4, callbacks=[search], verbose=0)
    records = fliqs_keras.read_search_log(tmp_path)
    assert records[0]["formats"]["conv:width"] in (4, 8)
    figure = fliqs_keras.plots.policy(records)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[:4] == [
        f"probability of {name}" for name in ("INT4", "INT8", "0", "1")
    ]


def test_kernel_must_be_what_is_quantized():
    config = fliqs_keras.SwitchableQuantizeConfig(
        ("kernel", "bias"), {"kernel": (-1,), "bias": (-1,)}
    )
    space = SearchSpace(["INT8"], architecture=nas.Width("conv", [4, 8]))
    with pytest.raises(ValueError, match="kernel alone is quantized"):
        fliqs_keras.apply(
            other_nets(lambda x: x), space, quantize_configs={"conv": config}
        )


def test_branch_that_the_model_returns_is_refused():
    inputs = keras.Input((4,))
    y = layers.Dense(4, name="branch")(inputs)
    model = keras.Model(inputs, [layers.Add(name="sum")([inputs, y]), y])
    space = SearchSpace(["INT8"], architecture=nas.Skip("sum"))
    with pytest.raises(ValueError, match="branch the model returns"):
        fliqs_keras.apply(model, space)


def test_formats_are_searched_after_the_architecture():
    model = make_one_block()
    small = nas.extract(model, ["INT2", "INT6"])
    options = {d.name: [f.name for f in d.options] for d in decisions(small)}
    names = ["conv", "depth", "point", "head"]
    assert options == dict.fromkeys(names, ["INT2", "INT6"])


def test_formats_are_searched_anew_with_all_that_apply_takes():
    model = make_one_block()
    small = nas.extract(model, ["INT2", "INT6"], every_tensor="INT8")
    options = {d.name: len(d.options) for d in decisions(small)}
    names = ["conv", "depth", "point", "head"]
    assert options == {"*:activations": 1, **dict.fromkeys(names, 2)}
    config = fliqs_keras.SwitchableQuantizeConfig(quantize_input=False)
    small = nas.extract(model, "INT6", quantize_configs={"head": config})
    assert small.get_layer("head").input_quantizer is None
    assert small.get_layer("conv").input_quantizer is not None
    with pytest.raises(ValueError, match="Received: every_tensor='INT8'"):
        nas.extract(model, every_tensor="INT8")


@pytest.mark.tensorflow
def test_extracted_model_saves_and_exports(tmp_path):
    model, x = make("inverted_residual")
    sample(model, np.random.default_rng(3)).apply_to(model)
    small = nas.extract(model)
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(predict(loaded, x), predict(small, x))
    fliqs_keras.export_tflite(loaded, tmp_path / "small.tflite")
    got = fliqs_keras.run_tflite(tmp_path / "small.tflite", x)
    assert_same(got, predict(model, x))


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["export_tflite", "export_onnx"])
def test_export_of_the_largest_network_is_logged(name, tmp_path, caplog):
    space = SearchSpace(["INT8"], architecture=nas.Width("hidden", [4, 8]))
    model = fliqs_keras.apply(scalar_output(), space)
    fliqs_keras.calibrate(model, np.ones((6, 4), "float32"))
    export = getattr(fliqs_keras, name)
    export(nas.extract(model), tmp_path / "small")
    assert "largest" not in caplog.text
    export(model, tmp_path / "large")
    assert "['hidden:width'] leave nothing" in caplog.text


def test_skipped_block_keeps_the_quantizer_of_its_sum():
    model, x = make("inverted_residual", every_tensor="INT8")
    chosen = dict(fliqs_keras.FormatAssignment.from_model(model))
    chosen |= {"block_1_add:depth": 0, "stem:width": 8}
    fliqs_keras.FormatAssignment(chosen).apply_to(model)
    assert_same(predict(nas.extract(model), x), predict(model, x))


def sum_by_keyword():
    inputs = keras.Input((4,))
    y = layers.Dense(4, name="branch")(inputs)
    x = layers.Add(name="sum")(inputs=[inputs, y])
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


def scalar_output():
    inputs = keras.Input((4,))
    x = layers.Dense(8, activation="relu", name="hidden")(inputs)
    x = layers.Dense(1, name="head")(x)
    return keras.Model(inputs, layers.Reshape((), name="scalar")(x))


@pytest.mark.parametrize(
    ("build", "choice", "sizes"),
    [
        (sum_by_keyword, nas.Skip("sum"), {"sum:depth": 0}),
        (scalar_output, nas.Width("hidden", [4, 8]), {"hidden:width": 4}),
    ],
)
def test_unusual_calls_are_extracted(build, choice, sizes):
    space = SearchSpace(["INT8"], architecture=choice)
    model = fliqs_keras.apply(build(), space)
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    fliqs_keras.calibrate(model, x)
    chosen = dict(fliqs_keras.FormatAssignment.from_model(model))
    fliqs_keras.FormatAssignment(chosen | sizes).apply_to(model)
    assert_same(predict(nas.extract(model), x), predict(model, x))


@pytest.mark.parametrize("family", ["inverted_residual", "transformer"])
def test_searchable_model_saves(family, tmp_path):
    model, x = make(family)
    assignment = sample(model, np.random.default_rng(2))
    assignment.apply_to(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(predict(loaded, x), predict(model, x))
    assert fliqs_keras.FormatAssignment.from_model(loaded) == assignment
    assert_same(predict(nas.extract(loaded), x), predict(model, x))


def make_one_block():
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 5, padding="same", name="conv")(inputs)
    y = layers.DepthwiseConv2D(3, padding="same", name="depth")(x)
    y = layers.Conv2D(8, 1, name="point")(y)
    x = layers.Add(name="add")([x, y])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return fliqs_keras.apply(
        keras.Model(inputs, layers.Dense(2, name="head")(x)),
        SearchSpace(
            ["INT4", "INT8"],
            architecture=[
                nas.Width("conv", [4, 8]),
                nas.KernelSize("conv", [1, 3, 5]),
                nas.Skip("add"),
            ],
        ),
    )


def test_costs_are_those_of_the_sizes_by_hand():
    model = make_one_block()
    chosen = {"conv": "INT4", "depth": "INT8", "point": "INT4", "head": "INT8"}
    chosen |= {"conv:width": 4, "conv:kernel": 3, "add:depth": 1}
    # 36 positions; kernels of 3 * 4 * 9, 4 * 9 and 4 * 4; a head of 4 * 2.
    gbops = 36 * (108 * 16 + 36 * 64 + 16 * 16) + 8 * 64
    assert fliqs_keras.BitOps()(model, chosen) == pytest.approx(gbops / 1e9)
    # Codes of half a byte or one, and four bytes a channel.
    nbytes = 54 + 36 + 8 + 8 + 4 * (4 + 4 + 4 + 2)
    assert fliqs_keras.WeightBytes()(model, chosen) == nbytes
    chosen["add:depth"] = 0
    gbops = 36 * 108 * 16 + 8 * 64
    assert fliqs_keras.BitOps()(model, chosen) == pytest.approx(gbops / 1e9)
    assert fliqs_keras.WeightBytes()(model, chosen) == 54 + 8 + 4 * (4 + 2)


def test_layers_that_are_added_up_decide_together():
    model, _ = make("inverted_residual")
    widths = [d for d in decisions(model) if d.name.endswith(":width")]
    assert {d.name: d.options for d in widths} == {
        "stem:width": (8, 12, 16),
        "block_1_expand:width": (8, 16, 32),
        "block_1_reduce:width": (2, 8),
        "block_2_expand:width": (8, 16, 32),
        "block_2_reduce:width": (2, 8),
    }


def share_layers(width):
    """Calls layers without weights twice, at two widths."""
    relu, drop = layers.ReLU(name="relu"), layers.Dropout(0.1, name="drop")
    x = inputs = keras.Input((4,))
    x = drop(relu(layers.Dense(8, name="one")(x)))
    x = drop(relu(layers.Dense(width, name="two")(x)))
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


@pytest.mark.parametrize("width", [6, 8])
def test_layers_without_weights_do_not_tie_what_they_are_called_on(width):
    space = SearchSpace(
        ["INT8"], architecture=nas.Width(["one", "two"], [0.5, 1.0])
    )
    model = fliqs_keras.apply(share_layers(width), space)
    chosen = dict(fliqs_keras.FormatAssignment.from_model(model))
    assert {"one:width", "two:width"} <= set(chosen)
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    fliqs_keras.calibrate(model, x)
    smaller = {"one:width": 8, "two:width": width // 2}
    fliqs_keras.FormatAssignment(chosen | smaller).apply_to(model)
    small = nas.extract(model)
    np.testing.assert_allclose(small(x), model(x), rtol=1e-5, atol=1e-6)


def test_shared_layers_with_quantizers_tie_what_they_are_called_on():
    space = SearchSpace(
        ["INT8"], architecture=nas.Width(["one", "two"], [0.5, 1.0])
    )
    model = fliqs_keras.apply(share_layers(8), space, every_tensor="INT8")
    assert "two:width" not in fliqs_keras.FormatAssignment.from_model(model)
    with pytest.raises(ValueError, match="'relu' .ReLU. is called on"):
        fliqs_keras.apply(share_layers(6), space, every_tensor="INT8")


def test_dead_channels_do_not_count_in_ranges():
    inputs = keras.Input((4,))
    x = layers.Dense(3, use_bias=False, name="hidden")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    kernel = np.zeros((4, 3), "float32")
    kernel[0] = 1.0, 2.0, 100.0
    model.get_layer("hidden").kernel.assign(kernel)
    space = SearchSpace(["FP32"], architecture=nas.Width("hidden", [2, 3]))
    model = fliqs_keras.apply(model, space)
    chosen = dict(fliqs_keras.FormatAssignment.from_model(model))
    fliqs_keras.FormatAssignment(chosen | {"hidden:width": 2}).apply_to(model)
    model(np.ones((5, 4), "float32"), training=True)
    quantizer = model.get_layer("head").input_quantizer
    assert float(ops.convert_to_numpy(quantizer.range)) == 2.0


def test_switching_sizes_traces_nothing_anew():
    model, x = make("residual")
    traces = []
    model.get_layer("relu_1").call = lambda y: traces.append(1) or ops.relu(y)
    predict_batch = model.predict
    generator = np.random.default_rng(0)
    for _ in range(5):
        sample(model, generator).apply_to(model)
        predict_batch(x, verbose=0)
    assert len(traces) <= 2


def other_nets(change):
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 3, padding="same", name="conv")(inputs)
    x = change(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def inner_model(x):
    inner = keras.Input((8, 8, 8))
    outputs = layers.Conv2D(8, 1, name="inside")(inner)
    return keras.Model(inner, outputs, name="inner")(x)


def two_sums(x, make_layer):
    """Two residual blocks of which each calls the same layer."""
    layer = make_layer()
    for name in ("sum", "second"):
        y = layer(layers.Conv2D(8, 1, name=f"{name}_branch")(x))
        x = layers.Add(name=name)([x, y])
    return x


@keras.saving.register_keras_serializable(package="nas_test")
class Attending(layers.Layer):
    """A layer of one's own that holds attention."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(4, 2, name="attention")

    def build(self, shape):
        self.attention.build(shape, shape)

    def call(self, x):
        return self.attention(x, x)


REFUSED = {
    "output": (lambda x: x, nas.Width("head", [1, 3]), "outputs of the model"),
    "normalized": (
        lambda x: layers.LayerNormalization(name="norm")(x),
        nas.Width("conv", [4, 8]),
        "'norm' .LayerNormalization. does not treat",
    ),
    "grouped": (
        lambda x: layers.Conv2D(8, 1, groups=2, name="grouped")(x),
        nas.Width("conv", [4, 8]),
        "'grouped' .Conv2D. does not treat",
    ),
    "added_to_input_like": (
        lambda x: layers.Add(name="sum")(
            [x, layers.Conv2D(8, 1, name="other")(x)]
        ),
        [nas.Width("conv", [4, 8]), nas.Width("other", [2, 8])],
        "must agree on their number of channels",
    ),
    "larger": (lambda x: x, nas.Width("conv", [4, 16]), "at most 8"),
    "no_layer": (lambda x: x, nas.Width("nothing", [4]), "at least one of"),
    "no_padding": (
        lambda x: layers.Conv2D(8, 3, name="valid")(x),
        nas.KernelSize("valid", [1, 3]),
        'padding="same"',
    ),
    "gated": (
        lambda x: layers.Activation("glu", name="glu")(x),
        nas.Width("conv", [4, 8]),
        "'glu' .Activation. does not treat",
    ),
    "even_kernel": (
        lambda x: layers.Conv2D(8, 4, padding="same", name="even")(x),
        nas.KernelSize("even", [1, 3]),
        "one odd size",
    ),
    "twice": (
        lambda x: x,
        [nas.KernelSize("conv", [1, 3]), nas.KernelSize("co*", [3])],
        "in one KernelSize at most",
    ),
    "strides": (
        lambda x: layers.Conv2D(8, 3, 2, padding="same", name="strided")(x),
        nas.KernelSize("strided", [1, 3]),
        "strides of at most the smallest",
    ),
    "projected_shortcut": (
        lambda x: layers.Add(name="sum")(
            [
                layers.Conv2D(8, 1, name="shortcut")(x),
                layers.Conv2D(8, 3, padding="same", name="branch")(x),
            ]
        ),
        nas.Skip("sum"),
        "no input is computed from the other",
    ),
    "branch_read_elsewhere": (
        lambda x: [
            layers.Add(name="sum")([x, y]) + layers.Add(name="second")([y, y])
            for y in [layers.Conv2D(8, 1, name="branch")(x)]
        ][0],
        nas.Skip("sum"),
        "branch is read by another layer",
    ),
    "heads_within_a_layer": (
        lambda x: Attending(name="block")(x),
        nas.Heads("*attention", [1, 4]),
        "at least one of .'MultiHeadAttention'. in the graph",
    ),
    "kernel_within_a_wrapper": (
        lambda x: layers.TimeDistributed(
            layers.Conv1D(8, 3, padding="same", name="inside"), name="each"
        )(x),
        nas.KernelSize("*inside", [1, 3]),
        "in the graph of the model",
    ),
    "scaled_apart": (
        lambda x: layers.Rescaling([2.0] * 8, name="apart")(x),
        nas.Width("conv", [4, 8]),
        "'apart' .Rescaling. does not treat",
    ),
    "moved_apart": (
        lambda x: layers.Rescaling(1.0, offset=[0.1] * 8, name="apart")(x),
        nas.Width("conv", [4, 8]),
        "'apart' .Rescaling. does not treat",
    ),
    "shared_by_branches": (
        lambda x: two_sums(x, lambda: layers.Conv2D(8, 1, name="shared")),
        nas.Skip("sum"),
        "'sum', whose branch shares .'shared'.",
    ),
    "shared_within_a_layer": (
        lambda x: two_sums(x, lambda: Attending(name="block")),
        nas.Skip("second"),
        "'second', whose branch shares .'block/attention/query', ",
    ),
    "nested": (inner_model, nas.Width("conv", [4, 8]), "models in it"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_changed_is_refused(case):
    change, architecture, message = REFUSED[case]
    model = other_nets(change)
    space = SearchSpace(["INT8"], architecture=architecture)
    with pytest.raises(ValueError, match=message):
        fliqs_keras.apply(model, space)
    with pytest.raises(ValueError, match=message):
        space.decisions(model)


def test_branches_may_share_layers_without_weights():
    model = other_nets(lambda x: two_sums(x, lambda: layers.ReLU(name="relu")))
    space = SearchSpace(["INT8"], architecture=nas.Skip(["sum", "second"]))
    for tensor_format in (None, "INT8"):
        found = decisions(
            fliqs_keras.apply(model, space, every_tensor=tensor_format)
        )
        assert {"sum:depth", "second:depth"} <= {d.name for d in found}


def test_readers_must_be_in_the_space():
    space = SearchSpace(
        ["INT8"],
        exclude="head",
        architecture=nas.Width("conv", [4, 8]),
    )
    with pytest.raises(ValueError, match="'head', which is left out"):
        fliqs_keras.apply(other_nets(lambda x: x), space)


@pytest.mark.parametrize(
    ("make_choice", "message"),
    [
        (lambda: nas.Width("*", []), "at least one size"),
        (lambda: nas.Width("*", [0]), "positive numbers"),
        (lambda: nas.Width("*", 8), "a list of sizes. Received: options=8"),
        (lambda: nas.KernelSize("*", None), "Received: options=None"),
        (lambda: nas.Width(None, [8]), "`layers` to hold .* Received: None"),
        (lambda: nas.Skip(7), "`layers` to hold .* Received: 7"),
        (lambda: nas.Width("*", [0.5], divisor=0), "at least 1"),
        (lambda: nas.KernelSize("*", [2, 3]), "odd kernel sizes"),
        (lambda: nas.Skip([]), "select some layer"),
        (
            lambda: SearchSpace(["INT8"], architecture=["Width"]),
            "choices of `fliqs_keras.nas`",
        ),
    ],
    ids=[
        "empty",
        "zero",
        "one_number",
        "none",
        "no_selector",
        "no_selectors",
        "divisor",
        "even",
        "no_layers",
        "no_choice",
    ],
)
def test_wrong_choice_is_refused(make_choice, message):
    with pytest.raises(ValueError, match=message):
        make_choice()


def test_shares_are_rounded_to_the_divisor():
    choice = nas.Width("*", [0.01, 0.3, 0.5, 0.55, 1.0], divisor=8)
    assert choice.sizes(48) == (8, 16, 24, 48)
    assert choice.sizes(4) == (4,)
    # The whole is what was built, and no share is more.
    assert nas.Width("*", [0.9, 1.0], divisor=4).sizes(10) == (8, 10)
    assert nas.Width("*", [0.5, 1.0], divisor=4).sizes(14) == (8, 14)


@pytest.mark.parametrize("family", FAMILIES)
def test_space_with_an_architecture_is_json(family, tmp_path):
    space = FAMILIES[family][1]()
    space.to_json(tmp_path / "space.json")
    assert SearchSpace.from_json(tmp_path / "space.json") == space


def test_extraction_needs_decisions_about_sizes():
    model = fliqs_keras.apply(inverted_residual_net(), "INT8")
    with pytest.raises(ValueError, match="decisions about sizes"):
        nas.extract(model)


def test_sensitivity_controller_refuses_sizes():
    model, x = make("residual")
    model.compile("sgd", "mse")
    y = np.zeros((len(x), 5), "float32")
    search = fliqs_keras.FormatSearch(
        ("INT4", 0.8), data=(x, y), controller="sensitivity"
    )
    with pytest.raises(ValueError, match="formats alone"):
        model.fit(x, y, callbacks=[search], verbose=0)


@pytest.mark.parametrize(
    "controller",
    [fliqs_keras.Supernet(networks=1, candidates=4), fliqs_keras.Reinforce()],
    ids=["supernet", "reinforce"],
)
def test_search_ends_within_its_budget(controller):
    model = make_one_block()
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 6, 6, 3)).astype("float32")
    y = generator.integers(2, size=64)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    search = fliqs_keras.FormatSearch(
        ("INT4", 0.4), data=(x, y), controller=controller, seed=0
    )
    model.fit(x, y, batch_size=8, epochs=2, callbacks=[search], verbose=0)
    cost = fliqs_keras.BitOps()(nas.extract(model))
    # This small a space has no choice that uses all of it.
    assert 0.9 * search.target <= cost <= search.target * (1 + 1e-9)
    assert cost == pytest.approx(fliqs_keras.BitOps()(model))
    largest = {"conv:width": 8, "conv:kernel": 5, "add:depth": 1}
    assert not largest.items() <= dict(search.assignment).items()


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
