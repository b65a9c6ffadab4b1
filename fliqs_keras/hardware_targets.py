"""What a piece of hardware or a runtime can run, as data."""

import dataclasses
import os
import pathlib
from typing import Any, NamedTuple

import keras

from fliqs_keras.files import read_json
from fliqs_keras.formats import Format, parse_format
from fliqs_keras.model_layers import walk_layers
from fliqs_keras.quantize_registry import find_quantize_config

__all__ = ["Target"]

_FOLDER = pathlib.Path(__file__).parent / "targets"
_ANY = "*"


class Rule(NamedTuple):
    """What layers of some classes can run.

    Attributes:
        layers: Names of the layer classes; `"*"` stands for all.
        formats: For each format, taken by weights and input together, how the
            target stores its weights: a tensor type of the file, or the
            format itself.
    """

    layers: tuple[str, ...]
    formats: dict[Format, str]


@dataclasses.dataclass(frozen=True)
class Target:
    """What a piece of hardware or a runtime can run.

    `Target.named` reads those of the package: `"litert-cpu"`,
    `"tfmicro-int8"`, `"bf16-fp8-accelerator"` and `"integer-any"`.

    Args:
        name: Name of the target.
        version: Version of the description.
        description: What it is and how well that is known.
        rules: What each kind of layer can run. The first rule that names the
            class of a layer counts; a layer that none names stays in float.

    Example:

    >>> target = Target.named("litert-cpu")
    >>> target.stored_as("Embedding", "INT4")
    'INT4'
    """

    name: str
    version: int
    description: str
    rules: tuple[Rule, ...]

    @classmethod
    def named(cls, name: str) -> "Target":
        """Returns a target of the package.

        Raises:
            ValueError: If there is none of that name.
        """
        names = sorted(path.stem for path in _FOLDER.glob("*.json"))
        if name not in names:
            raise ValueError(
                f"Expected the name of a target: {names}. Received: {name!r}. "
                "Read a description of your own with `Target.from_json`"
            )
        return cls.from_json(_FOLDER / f"{name}.json")

    @classmethod
    def from_json(cls, path: str | os.PathLike) -> "Target":
        """Reads a target from a JSON file, made as those of the package are.

        Raises:
            ValueError: If the file holds anything else.
        """
        content = read_json(path)
        fields = {field.name for field in dataclasses.fields(cls)}
        is_target = isinstance(content, dict) and set(content) == fields
        if not is_target or not isinstance(content["rules"], list):
            raise ValueError(
                f"Expected a JSON object of {sorted(fields)}, with a list of "
                f"rules, in {str(path)!r}. Received: {content!r}"
            )
        rules = tuple(_parse_rule(rule) for rule in content.pop("rules"))
        return cls(**content, rules=rules)

    def formats_of(self, layer_class: str) -> tuple[Format, ...]:
        """Returns the formats that layers of a class can take; none if none."""
        return tuple(self._stored(layer_class))

    def stored_as(self, layer_class: str, format: str | Format) -> str | None:
        """Returns how the weights of a layer are stored; `None` if never."""
        return self._stored(layer_class).get(parse_format(format))

    def formats_by_path(
        self, model: keras.Model
    ) -> dict[str, tuple[Format, ...]]:
        """Returns what each layer of a float model can take, by its path.

        Raises:
            ValueError: If the target can run no layer quantized.
        """
        formats = {}
        for place in walk_layers(model):
            if find_quantize_config(place.layer, {}, place.path) is not None:
                found = self.formats_of(type(place.layer).__name__)
                if found:
                    formats[place.path] = found
        if not formats:
            raise ValueError(
                f"Expected a model with a layer that target {self.name!r} "
                f"runs quantized. Received: model {model.name!r} with layers "
                f"{[type(layer).__name__ for layer in model.layers]}"
            )
        return formats

    def _stored(self, layer_class: str) -> dict[Format, str]:
        for rule in self.rules:
            if layer_class in rule.layers or _ANY in rule.layers:
                return rule.formats
        return {}


def _parse_rule(rule: Any) -> Rule:
    is_rule = isinstance(rule, dict) and set(rule) == set(Rule._fields)
    if (
        not is_rule
        or not _is_list_of_names(rule["layers"])
        or not isinstance(rule["formats"], dict)
        or not rule["formats"]
    ):
        raise ValueError(
            "Expected a rule of `layers`, a list of names of classes, and "
            "`formats`, an object from at least one format to how it is "
            f"stored. Received: {rule!r}"
        )
    formats = {parse_format(k): str(v) for k, v in rule["formats"].items()}
    return Rule(tuple(rule["layers"]), formats)


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)
