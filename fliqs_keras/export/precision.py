"""Models of mixed precision, computed in float32."""

import contextlib
from collections.abc import Iterator

import keras

from fliqs_keras import _keras


@contextlib.contextmanager
def in_float32(model: keras.Model) -> Iterator[None]:
    """Has all layers of a model compute in float32 meanwhile.

    Mixed precision is for training. Runtimes have few ops in float16, and
    what a model computes in float32 is what float16 is an approximation of.

    Args:
        model: A model that is built.
    """
    policies = []
    for layer in _keras.flatten_layers(model):
        if layer.compute_dtype in ("float16", "bfloat16"):
            policy = layer.dtype_policy
            if isinstance(policy, keras.dtype_policies.DTypePolicyMap):
                policy = policy[layer.path]
            policies.append((layer, policy))
    try:
        for layer, _ in policies:
            layer.dtype_policy = "float32"
        yield
    finally:
        for layer, policy in policies:
            layer.dtype_policy = policy
