"""Quantizers: switching, thresholds, following."""

import sys

import numpy as np
import pytest

from fliqs_keras import _tfmot, quantizers
from fliqs_keras.following_quantizers import (
    ActivationQuantizer,
    WeightQuantizer,
)
from fliqs_keras.formats import parse_format
from fliqs_keras.rounding import round_to_format
from fliqs_keras.thresholds import (
    count_magnitudes,
    count_magnitudes_in_graph,
    least_error_thresholds,
)
from tests.backends import IS_TENSORFLOW, MODES, in_mode, pull_back

FORMATS = ["INT2", "INT4", "E4M3", "BF16", "FP32"]


def make_values(shape=(64, 6), seed=0):
    values = np.random.default_rng(seed).normal(size=shape)
    return values.astype("float32")


def make_quantizer(kind=quantizers.SwitchableQuantizer):
    axes = () if kind is ActivationQuantizer else ([-1],)
    quantizer = kind(FORMATS, *axes)
    quantizer.build((64, 6))
    return quantizer


# Outside of a model, a function that JAX compiles keeps the variables' values.
@pytest.mark.parametrize("rows", [64, pytest.param(2**16, id="compiled_alone")])
@pytest.mark.parametrize("mode", MODES if IS_TENSORFLOW else ["eager"])
def test_each_format_rounds_as_it_does_alone(mode, rows):
    quantizer = make_quantizer()
    x = make_values((rows, 6))
    quantizer.set_thresholds(x)
    run = in_mode(quantizer, mode)
    outputs = {}
    for name in [*FORMATS, *FORMATS]:
        quantizer.set_format(name)
        row = quantizer.thresholds.numpy()[FORMATS.index(name)]
        got = np.asarray(run(x))
        np.testing.assert_array_equal(got, round_to_format(x, name, row))
        np.testing.assert_array_equal(outputs.setdefault(name, got), got)
    assert len({output.tobytes() for output in outputs.values()}) == 5


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("batch", [None, 40])
def test_large_activations_are_rounded_as_small_ones(batch, name):
    import tensorflow as tf

    quantizer = make_quantizer(ActivationQuantizer)
    # Of more elements than are rounded without a compiler.
    x, upstream = (make_values((40, 32, 32, 8), seed) for seed in (0, 1))
    quantizer.set_thresholds(x)
    quantizer.set_format(name)
    spec = tf.TensorSpec((batch, 32, 32, 8))

    @tf.function(input_signature=[spec, spec])
    def run(x, upstream):
        y, gradient = pull_back(quantizer, x, upstream)
        assert y.shape == spec.shape
        return y, gradient

    for rows in (40, 5) if batch is None else (40,):
        got = run(x[:rows], upstream[:rows])
        expected = pull_back(quantizer, x[:rows], upstream[:rows])
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1], expected[1])


def test_off_passes_values_and_gradients_through():
    quantizer = make_quantizer()
    quantizer.set_format(None)
    x = 1e6 * make_values()
    y, gradient = pull_back(quantizer, x, np.ones_like(x))
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(gradient, np.ones(x.shape))
    assert quantizer.format is None
    with pytest.raises(ValueError, match="is off"):
        quantizer.scale()


def test_is_a_tfmot_quantizer():
    assert isinstance(make_quantizer(), _tfmot.Quantizer)


def test_config_round_trips():
    quantizer = quantizers.SwitchableQuantizer(FORMATS, (-1,), decision="a/b")
    again = quantizers.SwitchableQuantizer.from_config(quantizer.get_config())
    assert again.get_config() == quantizer.get_config()
    assert again.formats == quantizer.formats


@pytest.mark.parametrize("formats", [[], ["INT4", "INT4"], "INT4", ["INTX"]])
def test_wrong_formats_are_refused(formats):
    with pytest.raises(ValueError, match="Received"):
        quantizers.SwitchableQuantizer(formats)


def test_foreign_format_is_refused():
    with pytest.raises(ValueError, match="INT3"):
        make_quantizer().set_format("INT3")


def rounding_error(x, name, threshold):
    rounded = np.asarray(round_to_format(x, name, np.float32(threshold)))
    return np.mean((rounded - x) ** 2)


DISTRIBUTIONS = {
    "normal": lambda generator: generator.normal(size=4000),
    "uniform": lambda generator: generator.uniform(-1, 1, size=4000),
    "heavy_tails": lambda generator: generator.standard_t(3, size=4000),
    "half_zeros": lambda generator: np.maximum(generator.normal(size=4000), 0),
}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize(
    "name", ["INT2", "INT3", "INT4", "INT8", "INT16", "E2M1", "E4M3"]
)
def test_threshold_is_near_that_of_a_fine_search(name, distribution):
    generator = np.random.default_rng(0)
    x = DISTRIBUTIONS[distribution](generator).astype("float32")
    [[threshold]] = np.asarray(
        least_error_thresholds(
            *count_magnitudes(x[:, None]), [parse_format(name)]
        )
    )
    best = min(
        rounding_error(x, name, t)
        for t in np.abs(x).max() * np.linspace(0.03, 1, 200)
    )
    # Candidates are 9 % apart, which is within a tenth of the least error.
    assert rounding_error(x, name, threshold) <= 1.1 * best


def test_magnitudes_are_counted_alike_in_a_graph():
    x = make_values((500, 1))
    x[::7] = 0
    counts, largest = count_magnitudes(x)
    count = in_mode(count_magnitudes_in_graph, "xla")
    np.testing.assert_array_equal(counts.sum(), (x != 0).sum())
    np.testing.assert_array_equal(count(np.abs(x[:, 0]), largest[0]), counts)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_not_counted(value):
    x = make_values((50, 2))
    expected = count_magnitudes(x[1:])
    x[0] = value
    for got, wanted in zip(count_magnitudes(x), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_thresholds_of_an_all_zero_tensor_are_usable():
    quantizer = make_quantizer()
    quantizer.set_thresholds(np.zeros((64, 6)))
    np.testing.assert_array_equal(quantizer(np.zeros((64, 6), "float32")), 0)


def weight_thresholds(quantizer, x):
    return np.asarray(quantizer.thresholds_for(x))


def test_weight_thresholds_keep_their_proportion_to_the_range():
    quantizer = make_quantizer(WeightQuantizer)
    x = make_values()
    quantizer.set_thresholds(x)
    before = weight_thresholds(quantizer, x)
    after = weight_thresholds(quantizer, 3.0 * x)
    np.testing.assert_allclose(after[:3], 3.0 * before[:3], rtol=1e-6)
    # BF16 and FP32 are not scaled.
    np.testing.assert_array_equal(after[3:], before[3:])
    # Those of least error are the same for a multiple of the weight.
    again = make_quantizer(WeightQuantizer)
    again.set_thresholds(3.0 * x)
    np.testing.assert_allclose(
        weight_thresholds(again, 3.0 * x), after, rtol=1e-6
    )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_weight_is_rounded_with_its_own_thresholds(name, training):
    quantizer = make_quantizer(WeightQuantizer)
    quantizer.set_thresholds(make_values())
    quantizer.set_format(name)
    x = make_values(seed=1)
    threshold = weight_thresholds(quantizer, x)[FORMATS.index(name)]
    np.testing.assert_array_equal(
        quantizer(x, training=training), round_to_format(x, name, threshold)
    )
    # What a channel of the other tensor is stretched by is no matter.
    share = quantizer.shares.numpy()[FORMATS.index(name), 0]
    expected = share * np.abs(x).max(axis=0)
    if name.startswith(("INT", "E4")):
        np.testing.assert_array_equal(threshold[0], expected)


def test_gradient_does_not_flow_through_the_range():
    quantizer = make_quantizer(WeightQuantizer)
    x = make_values()
    quantizer.set_thresholds(x)
    quantizer.set_format("INT2")
    upstream = make_values(seed=1)
    _, gradient = pull_back(quantizer, x, upstream)
    is_kept = np.abs(x) <= weight_thresholds(quantizer, x)[0]
    assert not is_kept.all()
    np.testing.assert_array_equal(gradient, np.where(is_kept, upstream, 0))


def test_threshold_at_the_largest_weight_stays_there():
    quantizer = make_quantizer(WeightQuantizer)
    x = make_values()
    largest = np.abs(x).max(axis=0)
    wanted = np.broadcast_to(largest, (len(FORMATS), 1, 6))
    quantizer.keep_thresholds(x, wanted)
    # One just below it would stop the gradient of that weight.
    for values in [x * np.float32(1 + step / 7) for step in range(8)]:
        largest = np.abs(values).max(axis=0)
        np.testing.assert_array_equal(
            weight_thresholds(quantizer, values)[:3, 0], [largest] * 3
        )


def test_weights_that_were_zero_are_not_clipped():
    quantizer = make_quantizer(WeightQuantizer)
    quantizer.set_thresholds(np.zeros((64, 6)))
    x = make_values()
    quantizer.set_format("E4M3")
    y = np.asarray(quantizer(x, training=True))
    assert np.abs(y - x).max() < 0.1 * np.abs(x).max()


def test_scale_of_a_weight_needs_the_weight():
    with pytest.raises(ValueError, match="Expected the weight"):
        make_quantizer(WeightQuantizer).scale()


def test_activation_thresholds_are_unset_until_training_sees_data():
    quantizer = make_quantizer(ActivationQuantizer)
    quantizer.set_format("INT4")
    x = make_values()
    with pytest.raises(ValueError, match="seen no data"):
        quantizer(x)
    assert not quantizer.is_calibrated
    assert np.isfinite(quantizer(x, training=True)).all()
    assert quantizer.is_calibrated
    # Observed on the first eight examples.
    seen = x[:8]
    best = min(
        rounding_error(seen, "INT4", t)
        for t in np.abs(seen).max() * np.linspace(0.03, 1, 200)
    )
    threshold = quantizer.thresholds_for(x)[1]
    assert rounding_error(seen, "INT4", threshold) <= 1.1 * best


@pytest.mark.parametrize("largest", [1e-3, 0.5, 1e4])
def test_formats_that_are_not_scaled_outlive_what_is_observed(largest):
    quantizer = make_quantizer(ActivationQuantizer)
    quantizer.set_format(None)
    x = (largest * make_values()).astype("float32")
    for step in range(20):
        # A batch that is far larger than those before is no exception.
        quantizer(x * np.float32(1e4 if step == 10 else 1), training=True)
    assert 0 < np.min(quantizer.shares) <= np.max(quantizer.shares) < 10
    assert quantizer.is_calibrated
    for name in ("BF16", "FP32"):
        quantizer.set_format(name)
        np.testing.assert_array_equal(quantizer(x), round_to_format(x, name))


def test_shares_of_formats_that_are_not_scaled_are_not_missed():
    quantizer = make_quantizer(ActivationQuantizer)
    x = make_values()
    quantizer(x, training=True)
    shares = quantizer.shares.numpy()
    shares[FORMATS.index("BF16")] = np.inf
    quantizer.shares.assign(shares)
    assert quantizer.is_calibrated
    quantizer.set_format("BF16")
    np.testing.assert_array_equal(quantizer(x), round_to_format(x, "BF16"))


def test_thresholds_of_formats_that_are_not_scaled_are_not_kept():
    quantizer = make_quantizer(WeightQuantizer)
    x = 1e-2 * make_values()
    before = weight_thresholds(quantizer, x)
    quantizer.keep_thresholds(x, before)
    np.testing.assert_array_equal(quantizer.shares, np.ones((5, 1, 6)))
    np.testing.assert_array_equal(weight_thresholds(quantizer, x), before)


def test_activation_thresholds_follow_a_moving_average():
    quantizer = make_quantizer(ActivationQuantizer)
    quantizer.set_format("INT4")
    x = make_values()
    quantizer(x, training=True)
    before = np.asarray(quantizer.thresholds_for(x))
    y = quantizer(2.0 * x, training=True)
    # 0.99 * 1 + 0.01 * 2
    np.testing.assert_allclose(
        quantizer.thresholds_for(x)[:3], 1.01 * before[:3], rtol=1e-5
    )
    # A step does not wait for its own range.
    expected = round_to_format(2.0 * x, "INT4", before[1])
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
@pytest.mark.parametrize("name", [None, "INT4"], ids=["off", "on"])
def test_a_batch_that_overflows_is_not_remembered(name, value):
    quantizer = make_quantizer(ActivationQuantizer)
    quantizer.set_format(name)
    x = make_values()
    overflown = np.where(np.arange(x.size).reshape(x.shape) == 3, value, x)
    # Nor as the first one.
    for batch in (overflown, x, overflown, x):
        quantizer(batch.astype("float32"), training=True)
    quantizer.set_format("INT4")
    largest = np.abs(x[:8]).max()
    np.testing.assert_allclose(quantizer.range, largest, rtol=1e-6)
    assert rounding_error(x, "INT4", quantizer.thresholds_for(x)[1]) < (
        1.2 * rounding_error(x, "INT4", largest)
    )


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
