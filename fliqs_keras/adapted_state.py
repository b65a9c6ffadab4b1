"""What layers of preprocessing know besides their weights."""

import tempfile

import keras


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
    elif hasattr(layer, "save_assets") and layer.get_vocabulary():
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            counterpart.load_assets(folder)
