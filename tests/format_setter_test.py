"""The setter of formats, for a few and for many quantizers."""

import numpy as np
import pytest
from keras import ops

from fliqs_keras.assignments import Decision, FormatSetter
from fliqs_keras.following_quantizers import ActivationQuantizer
from fliqs_keras.quantizers import SwitchableQuantizer

FORMATS = ["INT2", "INT4", "INT8"]


def make_setter(count):
    """Returns a setter of so many decisions, each of a pair of quantizers."""
    pairs = [
        (SwitchableQuantizer(FORMATS), ActivationQuantizer(FORMATS))
        for _ in range(count)
    ]
    for pair in pairs:
        for quantizer in pair:
            quantizer.build(())
    return FormatSetter([Decision(str(i), p) for i, p in enumerate(pairs)])


def read(setter):
    """Returns the indices of weights and of activations."""
    values = [int(ops.convert_to_numpy(index)) for index in setter.indices]
    return np.reshape(values, (-1, 2)).T


@pytest.mark.parametrize(
    "count,changed",
    [(3, 3), (3, 1), (3, 0), (60, 2), (60, 60)],
    ids=lambda n: str(n),
)
def test_indices_are_those_of_the_choice(count, changed):
    setter = make_setter(count)
    generator = np.random.default_rng(0)
    choice = generator.integers(0, 3, count)
    setter(choice)
    np.testing.assert_array_equal(read(setter), [choice, choice])
    for _ in range(3):
        moved = generator.permutation(count)[:changed]
        choice = choice.copy()
        choice[moved] = (choice[moved] + 1) % 3
        setter(choice)
        np.testing.assert_array_equal(read(setter), [choice, choice])


def test_activations_may_be_off():
    setter = make_setter(2)
    setter([1, 2], activations_off=True)
    np.testing.assert_array_equal(read(setter), [[1, 2], [-1, -1]])
    setter([1, 2])
    np.testing.assert_array_equal(read(setter), [[1, 2], [1, 2]])


def test_what_others_changed_is_set_once_it_is_forgotten():
    setter = make_setter(2)
    setter([1, 2])
    setter.indices[0].assign(0)
    setter.forget()
    setter([1, 2])
    np.testing.assert_array_equal(read(setter), [[1, 2], [1, 2]])
