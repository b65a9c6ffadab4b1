"""Which decision takes which option: from a model, onto a model, as JSON."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops

from fliqs_keras.eager_variables import assign_scalar
from fliqs_keras.files import read_json, write_atomically
from fliqs_keras.following_quantizers import ActivationQuantizer
from fliqs_keras.layer_decisions import (
    LayerDecisions,
    formats_by_layer,
    layer_decisions,
    names_tell,
)
from fliqs_keras.layer_formats import FormatsByLayer, split_decisions
from fliqs_keras.options import Option, option_to_json, parse_option
from fliqs_keras.quantized_layers import quantized_layers
from fliqs_keras.quantizers import OFF

__all__ = ["FormatAssignment"]

# Up to how many assignments a loop takes less time than a compiled call of
# all; or a third of them, if those are more.
_FEW = 50


class FormatAssignment(Mapping):
    """An immutable mapping from the name of a decision to its `Format`.

    A decision is named by the path of its layer in the model. Assignments
    are how a search, an export and a report speak to each other. A decision
    about the architecture (`fliqs_keras.nas`) takes a size, an integer.

    Args:
        options: Mapping from decision name to a format, its name, or a size.
        layers: The decisions that each layer follows, by its path. Defaults
            to those of `options`, if that is an assignment, or else to none.

    Attributes:
        layers: These; `None` if the names of decisions, as patterns, tell the
            formats. They do not where groups overlap or go with `exclude`, or
            where all inputs stay in float: `from_model` then adds the layers,
            for `fliqs_keras.apply`.

    Raises:
        ValueError: If a format is unknown.

    Example:

    >>> assignment = FormatAssignment({"conv": "INT8", "head": "INT4"})
    >>> assignment["head"].bits
    4
    """

    def __init__(
        self,
        options: Mapping[str, str | Option],
        *,
        layers: Mapping[str, LayerDecisions] | None = None,
    ):
        self._options = {
            str(name): parse_option(option) for name, option in options.items()
        }
        if layers is None and isinstance(options, FormatAssignment):
            layers = options.layers
        self.layers = layers

    def __getitem__(self, decision: str) -> Option:
        return self._options[decision]

    def __iter__(self) -> Iterator[str]:
        return iter(self._options)

    def __len__(self) -> int:
        return len(self._options)

    def __hash__(self) -> int:
        return hash(frozenset(self._options.items()))

    def __repr__(self) -> str:
        return f"FormatAssignment({self._options_as_json()})"

    @classmethod
    def from_model(cls, model: keras.Model) -> "FormatAssignment":
        """Returns the options that a quantized model stands on.

        Args:
            model: A model from `fliqs_keras.apply`.

        Raises:
            ValueError: If the model is not quantized, or if a quantizer is
                off.
        """
        options = {}
        for decision in decisions(model):
            index = int(ops.convert_to_numpy(decision.switches[0].index))
            if index < 0:
                raise ValueError(
                    "Expected every quantizer to stand on a format. Received: "
                    f"a quantizer of decision {decision.name!r} that is off"
                )
            options[decision.name] = decision.options[index]
        layers = layer_decisions(model)
        if names_tell(model, options, layers):
            layers = None
        return cls(options, layers=layers)

    def by_layer(
        self,
    ) -> tuple[Mapping[str, Option], FormatsByLayer | None]:
        """Returns the formats of weights and of activations, by layer."""
        if self.layers is None:
            return split_decisions(self._options)
        return formats_by_layer(self._options, self.layers)

    def apply_to(self, model: keras.Model) -> None:
        """Sets the options of a quantized model.

        Args:
            model: A model from `fliqs_keras.apply` with these decisions.

        Raises:
            ValueError: If the decisions are not those of the model, or if one
                that has a choice lacks a format. The model is then unchanged.
        """
        model_decisions = decisions(model)
        names = {decision.name for decision in model_decisions}
        fixed = {d.name for d in model_decisions if len(d.options) == 1}
        if not names - fixed <= set(self) <= names:
            raise ValueError(
                "Expected an assignment for the decisions of the model. "
                f"Missing: {sorted(names - fixed - set(self))}. "
                f"Received besides: {sorted(set(self) - names)}"
            )
        indices = [decision.choice_in(self) for decision in model_decisions]
        # One by one: to compile a call that is made once takes longer.
        for decision, index in zip(model_decisions, indices, strict=True):
            for switch in decision.switches:
                switch.index.assign(index)

    def to_json(self, path: str | os.PathLike) -> None:
        """Writes the assignment to a JSON file."""
        write_atomically(path, json.dumps(self._as_json(), indent=2) + "\n")

    def _as_json(self) -> dict[str, Any]:
        options = self._options_as_json()
        if self.layers is None:
            return options
        layers = {path: pair._asdict() for path, pair in self.layers.items()}
        return {"options": options, "layers": layers}

    def _options_as_json(self) -> dict[str, str | int]:
        return {name: option_to_json(o) for name, o in self._options.items()}

    @classmethod
    def from_json(cls, path: str | os.PathLike) -> "FormatAssignment":
        """Reads an assignment that `to_json` wrote.

        Raises:
            ValueError: If the file does not hold a JSON object of format
                names and sizes.
        """
        content = read_json(path)
        if not isinstance(content, dict):
            raise ValueError(
                "Expected a JSON object from decision to format name in "
                f"{str(path)!r}. Received: {type(content).__name__}"
            )
        # A decision, whatever its name, takes a format or a size.
        if not isinstance(content.get("options"), dict):
            return cls(content)
        return cls(content["options"], layers=_read_layers(content, path))


def _read_layers(
    content: dict[str, Any], path: str | os.PathLike
) -> dict[str, LayerDecisions]:
    names = {None, *content["options"]}
    try:
        layers = {
            layer: LayerDecisions(**pair)
            for layer, pair in content["layers"].items()
        }
        is_right = all(names.issuperset(pair) for pair in layers.values())
    except (AttributeError, KeyError, TypeError):
        is_right = False
    if not is_right:
        raise ValueError(
            "Expected `layers` to hold the decisions on `weights` and "
            f"`activations` of each layer in {str(path)!r}. Received: "
            f"{content.get('layers')!r}, of the decisions "
            f"{list(content['options'])}"
        )
    return layers


class Switch(Protocol):
    """What a decision switches: a quantizer, or a `SizeMask`.

    Attributes:
        decision: Name of the decision.
        options: What there is to choose from.
        index: A variable: the position of the option in use.
    """

    decision: str
    options: tuple[Option, ...]
    index: keras.Variable


class Decision:
    """What takes one option together.

    Attributes:
        name: Name of the decision.
        options: The options to choose from: formats, or sizes.
        switches: What it switches.
    """

    def __init__(self, name: str, switches: Sequence[Switch]):
        self.name = name
        self.switches = tuple(switches)
        self.options = self.switches[0].options

    @property
    def is_about_format(self) -> bool:
        """Whether the options are formats, not sizes."""
        return not isinstance(self.options[0], int)

    def index_of(self, option: Option) -> int:
        """Returns the position of an option."""
        if option not in self.options:
            raise ValueError(
                f"Expected one of the options of decision {self.name!r}: "
                f"{[option_to_json(o) for o in self.options]}. Received: "
                f"{option}"
            )
        return self.options.index(option)

    def choice_in(self, assignment: Mapping[str, str | Option]) -> int:
        """Returns the position of the option that an assignment gives it.

        Raises:
            ValueError: If it gives none, and there is a choice.
        """
        if self.name in assignment:
            return self.index_of(parse_option(assignment[self.name]))
        if len(self.options) > 1:
            raise ValueError(
                "Expected an assignment for every decision of the model. "
                f"Received: none for {self.name!r}"
            )
        return 0


def choices_in(
    assignment: Mapping[str, str | Option], of: Sequence[Decision]
) -> dict[str, int]:
    """Returns the position of the option of each decision, by its name.

    Raises:
        ValueError: If an assignment gives one that has a choice none, or if
            it holds other decisions.
    """
    names = [decision.name for decision in of]
    if others := sorted(set(assignment) - set(names)):
        raise ValueError(
            f"Expected an assignment for the decisions of the model: {names}. "
            f"Received besides: {others}"
        )
    return {decision.name: decision.choice_in(assignment) for decision in of}


def decisions(model: keras.Model) -> list[Decision]:
    """Returns the decisions of a quantized model, in the order of its layers.

    Raises:
        ValueError: If the model has no quantizers.
    """
    groups: dict[str, list[Switch]] = {}
    for layer in quantized_layers(model):
        for switch in (*layer.quantizers(), *layer.size_masks()):
            groups.setdefault(switch.decision, []).append(switch)
    if not groups:
        raise ValueError(
            "Expected a model with quantizers. Received: model "
            f"{model.name!r}, which has none. Call `fliqs_keras.apply` on it "
            "first"
        )
    return [Decision(name, members) for name, members in groups.items()]


class FormatSetter:
    """Writes the indices of decisions, those that differ from the last ones.

    On TensorFlow many assignments are one compiled call, which takes less
    time than a loop over them; for a few it is the other way round.

    Args:
        decisions: The decisions whose options are set.

    Attributes:
        indices: The variables that are set.
    """

    def __init__(self, decisions: Sequence[Decision]):
        switches = [s for d in decisions for s in d.switches]
        self.indices = [switch.index for switch in switches]
        self._counts = [len(d.switches) for d in decisions]
        self._values: np.ndarray | None = None
        self._is_activation = np.array(
            [isinstance(s, ActivationQuantizer) for s in switches]
        )
        self._assign = self._assign_all
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            # To call the trace takes less time than to call the function.
            self._assign = tf.function(
                self._assign_all, autograph=False
            ).get_concrete_function(
                tf.TensorSpec((len(self.indices),), "int32")
            )

    def __call__(
        self, indices: Sequence[int], *, activations_off: bool = False
    ) -> None:
        """Sets one index a decision.

        Args:
            indices: Position of an option for each decision.
            activations_off: Whether activation quantizers are switched off.
        """
        values = np.repeat(np.asarray(indices, dtype="int32"), self._counts)
        if activations_off:
            values[self._is_activation] = OFF
        if self._values is None:
            changed = np.arange(len(values))
        else:
            changed = np.flatnonzero(values != self._values)
        self._values = values
        if len(changed) > max(_FEW, len(values) // 3):
            self._assign(ops.convert_to_tensor(values))
            return
        for position in changed:
            assign_scalar(self.indices[position], int(values[position]))

    def forget(self) -> None:
        """Forgets what was set, where the indices may have been changed."""
        self._values = None

    def _assign_all(self, values):
        values = ops.unstack(values, len(self.indices))
        for index, value in zip(self.indices, values, strict=True):
            index.assign(value)
