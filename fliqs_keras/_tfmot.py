"""The one place that imports tensorflow-model-optimization.

Only its two interfaces are used: they are plain Python. Importing the package
makes Keras 2 the meaning of an untouched `tf.keras` and sets
`TF_USE_LEGACY_KERAS` for child processes; both are prevented here.
"""

import os

import tensorflow as tf

_LEGACY_SWITCH = "TF_USE_LEGACY_KERAS"


def _import_interfaces():
    before = os.environ.get(_LEGACY_SWITCH)
    # `tf.keras` is loaded lazily: touching it now settles what it means.
    _ = tf.keras.__version__
    try:
        from tensorflow_model_optimization.quantization import keras as tfmot
    finally:
        if before is None:
            os.environ.pop(_LEGACY_SWITCH, None)
        else:
            os.environ[_LEGACY_SWITCH] = before
    return tfmot.QuantizeConfig, tfmot.quantizers.Quantizer


QuantizeConfig, Quantizer = _import_interfaces()
