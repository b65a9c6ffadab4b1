"""The private parts of Keras, each used: fails when one of them moves."""

import sys

import keras
import numpy as np
import pytest
from keras import layers

from fliqs_keras import _keras
from tests.backends import in_mode


def test_substitute_scope_replaces_reads_and_keeps_updates():
    weight = keras.Variable(np.ones(2, "float32"))
    state = keras.Variable(np.zeros(2, "float32"))
    with _keras.SubstituteScope([(weight, keras.ops.full((2,), 3.0))]):
        np.testing.assert_array_equal(weight + 0, [3.0, 3.0])
        state.assign([5.0, 5.0])
    np.testing.assert_array_equal(weight + 0, [1.0, 1.0])
    np.testing.assert_array_equal(state + 0, [5.0, 5.0])


def test_substitute_scope_within_another_passes_updates_on():
    state = keras.Variable(np.zeros(2, "float32"))
    with keras.StatelessScope() as outer:
        with _keras.SubstituteScope([]):
            state.assign([5.0, 5.0])
            np.testing.assert_array_equal(state + 0, [5.0, 5.0])
    np.testing.assert_array_equal(state + 0, [0.0, 0.0])
    np.testing.assert_array_equal(outer.get_current_value(state), [5.0, 5.0])


def test_update_scope_notes_updates_of_some_variables():
    noted, other = (keras.Variable(np.zeros(2, "float32")) for _ in range(2))
    with _keras.UpdateScope([noted]) as scope:
        for value in (3.0, 5.0):
            noted.assign([value, value])
        other.assign([7.0, 7.0])
    np.testing.assert_array_equal(scope.updates[id(noted)], [[3, 3], [5, 5]])
    np.testing.assert_array_equal(noted + 0, [0.0, 0.0])
    np.testing.assert_array_equal(other + 0, [7.0, 7.0])


def test_updates_of_a_call_in_training_are_counted():
    norms = [layers.BatchNormalization() for _ in range(3)]
    norms[2].trainable = False
    x = keras.Input((2,))
    y = layers.Add()([norms[1](norms[1](norms[0](x))), norms[2](x)])
    means = [norm.moving_mean for norm in norms]
    assert _keras.count_updates(keras.Model(x, y), means) == [1, 2, 0]
    np.testing.assert_array_equal(means[1] + 0, [0.0, 0.0])


def test_reading_scope_notes_reads_and_changes_nothing():
    read, other = keras.Variable(3.0), keras.Variable(4.0)
    with _keras.ReadingScope() as scope:
        value = read + 0
        other.assign(5.0)
        with keras.StatelessScope():
            _ = other + 0
        with _keras.SubstituteScope([(other, keras.ops.zeros(()))]):
            _ = other + read
    assert scope.read == {id(read)}
    assert float(value) == 3.0 and float(other) == 5.0


def test_master_value_is_not_cast():
    layer = layers.Dense(2, dtype="mixed_bfloat16")
    layer.build((None, 3))
    assert keras.ops.dtype(_keras.master_value(layer.kernel)) == "float32"


def test_unlocked_layer_takes_a_sublayer():
    layer = layers.Dense(2)
    layer.build((None, 3))
    with _keras.unlocked(layer):
        layer.extra = layers.Dense(1)
    assert layer.extra in _keras.sublayers(layer)
    with pytest.raises(ValueError, match="cannot add new elements"):
        layer.more = layers.Dense(1)


class Remember(layers.Layer):
    """Keeps the shapes that it was called with."""

    def call(self, inputs):
        self.shapes = keras.tree.map_structure(lambda x: x.shape, inputs)
        return keras.tree.flatten(inputs)[0]


def test_zeros_have_the_structure_of_the_inputs():
    a = keras.Input((2,), name="a")
    b = keras.Input((3,), dtype="int32", name="b")
    remember = Remember()
    model = keras.Model({"a": a, "b": b}, remember({"a": a, "b": b}))
    _keras.call_on_zeros(model)
    shapes = {k: tuple(v) for k, v in remember.shapes.items()}
    assert shapes == {"a": (1, 2), "b": (1, 3)}


def test_zeros_of_a_subclassed_model_have_the_shape_it_was_called_with():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.remember = Remember()

        def call(self, x):
            return self.remember(x)

    model = Subclassed()
    with pytest.raises(ValueError, match="Call it on a batch of data"):
        _keras.call_on_zeros(model)
    model(np.zeros((7, 4), "float32"))
    _keras.call_on_zeros(model)
    assert tuple(model.remember.shapes) == (1, 4)


def test_zeros_need_known_shapes():
    model = keras.Sequential([keras.Input((None, 3)), layers.Dense(1)])
    with pytest.raises(ValueError, match="known shape"):
        _keras.call_on_zeros(model)


def test_stored_value_is_read_while_a_function_is_traced():
    class Read(layers.Layer):
        def build(self, input_shape):
            self.scale = self.add_weight(initializer="ones", shape=())

        def call(self, x):
            self.read = _keras.stored_value(self.scale)
            return x * self.scale

    layer = Read()
    keras.Model(x := keras.Input((2,)), layer(x))
    assert layer.read is None
    in_mode(layer, "xla")(np.zeros((1, 2), "float32"))
    assert layer.read == 1.0


def test_functional_and_sequential_models_hold_layers_openly():
    x = keras.Input((2,))
    assert _keras.holds_layers_openly(keras.Model(x, layers.Dense(1)(x)))
    assert _keras.holds_layers_openly(keras.Sequential())
    assert not _keras.holds_layers_openly(layers.MultiHeadAttention(1, 1))


class Own(keras.Model):
    pass


class OwnCall(keras.Model):
    def call(self, x):
        return 2 * super().call(x)


class OwnConstructor(keras.Model):
    def __init__(self, x):
        super().__init__(x, layers.Dense(1)(x))


class OwnSequential(keras.Sequential):
    pass


class OwnSequentialConstructor(keras.Sequential):
    def __init__(self, units):
        super().__init__([layers.Dense(units)])


def test_a_class_of_ones_own_has_a_graph_unless_it_has_another_call():
    x = keras.Input((2,))
    y = layers.Dense(1)(x)
    assert _keras.has_graph(keras.Model(x, y))
    assert _keras.has_graph(keras.Sequential([x, layers.Dense(1)]))
    assert _keras.has_graph(Own(x, y))
    assert _keras.has_graph(OwnConstructor(x))
    assert _keras.has_graph(OwnSequential([x, layers.Dense(1)]))
    assert not _keras.has_graph(OwnCall(x, y))
    assert not _keras.has_graph(layers.Dense(1))


def test_what_makes_a_model_is_its_layers_or_a_constructor_of_its_own():
    x = keras.Input((2,))
    y = layers.Dense(1)(x)
    assert _keras.is_made_of_layers(keras.Model(x, y))
    assert _keras.is_made_of_layers(keras.Sequential())
    assert _keras.is_made_of_layers(Own(x, y))
    assert _keras.is_made_of_layers(OwnSequential())
    assert not _keras.is_made_of_layers(OwnConstructor(x))
    assert not _keras.is_made_of_layers(OwnSequentialConstructor(2))


def test_calls_of_a_graph_in_order():
    x = keras.Input((4,))
    inner_input = keras.Input((4,))
    inner = layers.Dense(4, name="inner")(inner_input)
    inner = keras.Model(inner_input, inner + 1)
    pair = keras.Sequential([inner, layers.ReLU(name="relu")])
    y = layers.Add(name="add")([pair(inner(x)), x])
    model = keras.Model(x, [y, layers.Dense(2, name="head")(y)])
    calls, returned = _keras.graph_calls(model)
    assert calls[0].inputs == calls[-2].inputs[1:]
    names = [call.operation.name for call in calls]
    adding = names[1]
    assert names == [
        *("inner", adding, "inner", adding, "relu"),
        *("add", "head"),
    ]
    # Each reads what the last one made; what is called twice makes two.
    for first, second in zip(calls[:-1], calls[1:], strict=True):
        assert second.inputs[:1] == first.outputs
    assert len({call.outputs for call in calls}) == len(calls)
    assert returned == {*calls[-2].outputs, *calls[-1].outputs}


def test_calls_tell_what_their_first_argument_holds():
    x, state = keras.Input((3, 4)), keras.Input((2,))
    y = layers.SimpleRNN(2)(x, initial_state=state)
    y = layers.Add()([y, state])
    y = layers.Dense(2)(inputs=y)
    calls, _ = _keras.graph_calls(keras.Model([x, state], y))
    assert [(c.inputs, c.first_argument) for c in calls] == [
        ((0, 1), (0,)),
        ((2, 1), (2, 1)),
        ((3,), (3,)),
    ]


def test_other_models_have_no_graph():
    assert _keras.graph_calls(layers.MultiHeadAttention(1, 1)) is None


def test_own_weights_leave_out_those_of_sublayers():
    layer = layers.LSTM(2)
    layer.build((None, 3, 4))
    assert _keras.own_weights(layer) == []
    assert len(_keras.own_weights(layer.cell)) == 3


def test_loss_tracker_counts_examples():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    assert _keras.loss_tracker(model) is None
    model.compile("sgd", "mse", jit_compile=False)
    model.evaluate(np.ones((3, 2)), np.ones((3, 1)), verbose=0)
    assert _keras.loss_tracker(model) is model.metrics[0]
    assert _keras.loss_tracker(model).count.numpy() == 3


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
