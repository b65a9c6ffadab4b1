"""Which decision takes which format: from a model, onto a model, as JSON."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np
from keras import ops

from fliqs_keras.files import read_json, write_atomically
from fliqs_keras.following_quantizers import ActivationQuantizer
from fliqs_keras.formats import Format, parse_format
from fliqs_keras.quantized_layers import quantized_layers
from fliqs_keras.quantizers import OFF, SwitchableQuantizer

__all__ = ["FormatAssignment"]


class FormatAssignment(Mapping):
    """An immutable mapping from the name of a decision to its `Format`.

    A decision is named by the path of its layer in the model. Assignments
    are how a search, an export and a report speak to each other.

    Args:
        formats: Mapping from decision name to a format or its name.

    Raises:
        ValueError: If a format is unknown.

    Example:

    >>> assignment = FormatAssignment({"conv": "INT8", "head": "INT4"})
    >>> assignment["head"].bits
    4
    """

    def __init__(self, formats: Mapping[str, str | Format]):
        self._formats = {
            str(name): parse_format(f) for name, f in formats.items()
        }

    def __getitem__(self, decision: str) -> Format:
        return self._formats[decision]

    def __iter__(self) -> Iterator[str]:
        return iter(self._formats)

    def __len__(self) -> int:
        return len(self._formats)

    def __hash__(self) -> int:
        return hash(frozenset(self._formats.items()))

    def __repr__(self) -> str:
        names = {name: f.name for name, f in self._formats.items()}
        return f"FormatAssignment({names})"

    @classmethod
    def from_model(cls, model: keras.Model) -> "FormatAssignment":
        """Returns the formats that a quantized model stands on.

        Args:
            model: A model from `fliqs_keras.apply`.

        Raises:
            ValueError: If the model is not quantized, or if a quantizer is
                off.
        """
        formats = {}
        for decision in decisions(model):
            chosen = decision.quantizers[0].format
            if chosen is None:
                raise ValueError(
                    "Expected every quantizer to stand on a format. Received: "
                    f"a quantizer of decision {decision.name!r} that is off"
                )
            formats[decision.name] = chosen
        return cls(formats)

    def apply_to(self, model: keras.Model) -> None:
        """Sets the formats of a quantized model.

        Args:
            model: A model from `fliqs_keras.apply` with these decisions.

        Raises:
            ValueError: If the decisions are not those of the model, or if one
                that has a choice lacks a format. The model is then unchanged.
        """
        model_decisions = decisions(model)
        names = {decision.name for decision in model_decisions}
        fixed = {d.name for d in model_decisions if len(d.formats) == 1}
        if not names - fixed <= set(self) <= names:
            raise ValueError(
                "Expected an assignment for the decisions of the model. "
                f"Missing: {sorted(names - fixed - set(self))}. "
                f"Received besides: {sorted(set(self) - names)}"
            )
        indices = [decision.choice_in(self) for decision in model_decisions]
        FormatSetter(model_decisions)(indices)

    def to_json(self, path: str | os.PathLike) -> None:
        """Writes the assignment to a JSON file."""
        names = {name: f.name for name, f in self._formats.items()}
        write_atomically(path, json.dumps(names, indent=2) + "\n")

    @classmethod
    def from_json(cls, path: str | os.PathLike) -> "FormatAssignment":
        """Reads an assignment that `to_json` wrote.

        Raises:
            ValueError: If the file does not hold a JSON object of format
                names.
        """
        formats = read_json(path)
        if not isinstance(formats, dict):
            raise ValueError(
                "Expected a JSON object from decision to format name in "
                f"{str(path)!r}. Received: {type(formats).__name__}"
            )
        return cls(formats)


class Decision:
    """The quantizers that take one format together.

    Attributes:
        name: Name of the decision.
        formats: The formats to choose from.
        quantizers: The quantizers.
    """

    def __init__(self, name: str, quantizers: Sequence[SwitchableQuantizer]):
        self.name = name
        self.quantizers = tuple(quantizers)
        self.formats = self.quantizers[0].formats

    def index_of(self, number_format: Format) -> int:
        """Returns the position of a format among the options."""
        if number_format not in self.formats:
            raise ValueError(
                f"Expected one of the formats of decision {self.name!r}: "
                f"{[f.name for f in self.formats]}. Received: {number_format}"
            )
        return self.formats.index(number_format)

    def choice_in(self, assignment: Mapping[str, str | Format]) -> int:
        """Returns the position of the format that an assignment gives it.

        Raises:
            ValueError: If it gives none, and there is a choice.
        """
        if self.name in assignment:
            return self.index_of(parse_format(assignment[self.name]))
        if len(self.formats) > 1:
            raise ValueError(
                "Expected an assignment for every decision of the model. "
                f"Received: none for {self.name!r}"
            )
        return 0


def decisions(model: keras.Model) -> list[Decision]:
    """Returns the decisions of a quantized model, in the order of its layers.

    Raises:
        ValueError: If the model has no quantizers.
    """
    groups: dict[str, list[SwitchableQuantizer]] = {}
    for layer in quantized_layers(model):
        for quantizer in layer.quantizers():
            groups.setdefault(quantizer.decision, []).append(quantizer)
    if not groups:
        raise ValueError(
            "Expected a model with quantizers. Received: model "
            f"{model.name!r}, which has none. Call `fliqs_keras.apply` on it "
            "first"
        )
    return [Decision(name, members) for name, members in groups.items()]


class FormatSetter:
    """Writes the indices of all decisions at once.

    On TensorFlow the assignments are one compiled call, which takes a tenth
    of the time of a loop over a hundred quantizers.

    Args:
        decisions: The decisions whose quantizers are set.
    """

    def __init__(self, decisions: Sequence[Decision]):
        self._decisions = list(decisions)
        self._assign = self._assign_all
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            self._assign = tf.function(self._assign_all, autograph=False)

    def __call__(
        self, indices: Sequence[int], *, activations_off: bool = False
    ) -> None:
        """Sets one index a decision.

        Args:
            indices: Position of a format for each decision.
            activations_off: Whether activation quantizers are switched off.
        """
        values = []
        for decision, index in zip(self._decisions, indices, strict=True):
            for quantizer in decision.quantizers:
                is_activation = isinstance(quantizer, ActivationQuantizer)
                is_off = activations_off and is_activation
                values.append(OFF if is_off else index)
        self._assign(np.asarray(values, dtype="int32"))

    def _assign_all(self, values):
        quantizers = [q for d in self._decisions for q in d.quantizers]
        indices = ops.unstack(values, len(quantizers))
        for quantizer, index in zip(quantizers, indices, strict=True):
            quantizer.index.assign(index)
