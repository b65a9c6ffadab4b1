"""One network trained again and again, and traced once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

import fliqs_keras
from recipes import data, training


class RepeatedTraining:
    """Trains a network from new weights each time it is called.

    The compiled model is kept: to trace it takes about as long as to train a
    small network for an epoch. A training depends on its seed and callbacks
    alone, not on those before it.

    Args:
        build: Returns the float network, with new weights.
        dataset: The data.
        config: Settings for `training.compile_classifier`.
        space: A search space, to quantize the network. Defaults to `None`:
            it is trained in float.
        jit_compile: Whether XLA compiles a step, which takes longer than to
            train a small network. Defaults to `False`.
    """

    def __init__(
        self,
        build: Callable[[], keras.Model],
        dataset: data.Dataset,
        config: Mapping[str, Any],
        space: fliqs_keras.SearchSpace | None = None,
        jit_compile: bool = False,
    ):
        self._build = build
        self._space = space
        self._dataset = dataset
        self._config = config
        self.model = self._new_model()
        training.compile_classifier(
            self.model, dataset, config, jit_compile=jit_compile
        )
        self.model.optimizer.build(self.model.trainable_variables)
        self._first_state = [
            variable.numpy() for variable in self.model.optimizer.variables
        ]

    def __call__(
        self,
        seed: int,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        float_weights: Sequence[np.ndarray] | None = None,
    ) -> keras.Model:
        """Trains and returns the model, which the next call trains anew.

        Args:
            seed: Seed of the weights and of the order of the data.
            callbacks: Callbacks of `fit`.
            float_weights: Weights of the float network to begin with, from
                `get_weights`. Defaults to new ones.
        """
        keras.utils.set_random_seed(seed)
        fresh = self._new_model(float_weights)
        self.model.set_weights(fresh.get_weights())
        for variable, value in zip(
            self.model.optimizer.variables, self._first_state, strict=True
        ):
            variable.assign(value)
        self.model.fit(
            self._dataset.x_train,
            self._dataset.y_train,
            batch_size=self._config["batch_size"],
            epochs=self._config["epochs"],
            callbacks=list(callbacks),
            verbose=0,
        )
        return self.model

    def _new_model(self, float_weights=None) -> keras.Model:
        model = self._build()
        if float_weights is not None:
            model.set_weights(float_weights)
        if self._space is None:
            return model
        return fliqs_keras.apply(model, self._space)
