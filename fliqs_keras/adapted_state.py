"""What layers of preprocessing know besides their weights."""

import tempfile

import keras

from fliqs_keras import _keras

_LOOKUPS = (
    keras.layers.IntegerLookup,
    keras.layers.StringLookup,
    keras.layers.TextVectorization,
)


def copy_adapted_state(
    layer: keras.layers.Layer, counterpart: keras.layers.Layer
) -> None:
    """Gives a copy of a layer what `adapt` found, beyond the weights.

    Args:
        layer: The layer.
        counterpart: Its copy, whose weights are set.
    """
    if isinstance(layer, keras.layers.Normalization):
        counterpart.finalize_state()
    elif hasattr(layer, "save_assets") and not _waits_for_words(layer):
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            _copy_frequencies(layer, counterpart)
            counterpart.load_assets(folder)


def _copy_frequencies(
    layer: keras.layers.Layer, counterpart: keras.layers.Layer
) -> None:
    """Copies how rare words are, which assets leave to variables."""
    pairs = zip(
        _keras.flatten_layers(layer),
        _keras.flatten_layers(counterpart),
        strict=True,
    )
    for lookup, lookup_copy in pairs:
        # That of a text vectorization is a layer in it.
        if isinstance(lookup, _LOOKUPS) and not _waits_for_words(lookup):
            variables = {}
            lookup.save_own_variables(variables)
            lookup_copy.load_own_variables(variables)


def _waits_for_words(layer: keras.layers.Layer) -> bool:
    """Whether a layer looks up words, and knows none yet."""
    return isinstance(layer, _LOOKUPS) and not layer.get_vocabulary(
        include_special_tokens=False
    )
