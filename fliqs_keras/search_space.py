"""What a search may choose from: which layers, which formats."""

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from fliqs_keras._tfmot import QuantizeConfig
from fliqs_keras.architecture import SizeChoice, choice_from_json
from fliqs_keras.architecture_plans import plan_sizes
from fliqs_keras.assignments import FormatAssignment
from fliqs_keras.files import read_json, write_atomically
from fliqs_keras.formats import Format
from fliqs_keras.hardware_targets import Target
from fliqs_keras.layer_formats import (
    TIED,
    Formats,
    FormatsByLayer,
    check_names,
    check_order,
    find_parts,
    names_of,
    parse_by_layer,
    split_inputs,
    take,
    union,
    warn_of_float_inputs,
)
from fliqs_keras.layer_plans import plan_layers
from fliqs_keras.model_layers import walk_layers
from fliqs_keras.options import Option
from fliqs_keras.quantize_registry import as_switchable
from fliqs_keras.quantized_layers import make_quantizers
from fliqs_keras.selectors import (
    Lineage,
    Selector,
    as_selectors,
    selector_from_json,
    selector_to_json,
    selects,
    selects_any,
)

__all__ = ["SearchSpace"]


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """The layers of a model that are quantized, and the formats of each.

    One decision a layer, unless told otherwise: its weights and its input
    take the same format. All layers that can be quantized are, the first and
    the last included, unless `include`, `exclude` or `formats` leave them
    out. `a | b` is a space of the formats of both.

    Args:
        formats: Formats or their names, at least one, each once. A single
            format is plain quantization-aware training. Or a dictionary from
            patterns to such formats: a layer takes those of its own path or
            else of the first pattern that selects it, and one that none
            selects is left out. A name that ends in `":input"` is one of
            `activations`. Or a `FormatAssignment`: that of a model
            gives each layer the format that it has there, and leaves in float
            what is in float there; any other is such a dictionary.
        include: The layers to quantize. Each of a list of selectors, or a
            single one, is a pattern of layer paths, in which `*` and `?`
            stand for any characters (`"block1/*"`), a layer class, or a
            function `select(path, layer) -> bool`. What it selects comes
            with all that is in it. Defaults to all.
        exclude: The layers to leave out, in the same way. Defaults to none.
        activations: The formats of activations. `"tied"`, the default: those
            of the weights, in one decision. Formats, or a dictionary of them
            as for `formats`: a decision of their own, which is named
            `"conv:input"` for a layer `"conv"`. `None`: activations stay in
            float, as do those of layers that the dictionary does not select.
        groups: Patterns of layer paths. The layers that one selects share
            a decision, which is named as the pattern is; the first that
            selects a layer counts. `"*"` is one decision for the network.
            Defaults to none: a decision for each layer.
        shared_inputs: Whether layers that read the same tensor agree on its
            format, so that one quantizer serves them. Their decisions become
            one, named `"a+b"`: the whole, or that of their inputs
            where activations have their own. Only for functional and
            sequential models; layers within others, as those of attention,
            decide for themselves.
        architecture: What sizes there are to choose from besides: choices of
            `fliqs_keras.nas`. Only for functional and sequential models.
            Defaults to none.

    Raises:
        ValueError: If there is no format, or one twice, or an unknown name,
            or if a selector is of another kind.

    Example:

    >>> space = SearchSpace(["INT4", "INT8"], exclude="head")
    >>> space.formats
    (IntFormat(width=4), IntFormat(width=8))
    >>> space = SearchSpace({"stem": "INT8", "*": ["INT2", "INT4"]})
    >>> weight_only = SearchSpace(["INT4", "INT8"], activations=None)
    """

    formats: FormatsByLayer
    include: Selector | Sequence[Selector] | None = None
    exclude: Selector | Sequence[Selector] = ()
    activations: FormatsByLayer | None = TIED
    groups: str | Sequence[str] = ()
    shared_inputs: bool = False
    architecture: SizeChoice | Sequence[SizeChoice] = ()

    def __post_init__(self):
        formats, activations = self.formats, self.activations
        check_names("formats", formats)
        check_names("activations", activations)
        if isinstance(formats, Mapping):
            formats, activations = _take_apart(formats, activations)
        if isinstance(formats, Mapping) and not formats:
            raise ValueError(
                "Expected `formats` to hold the formats of at least one "
                "layer. Received: formats={}"
            )
        self._set(formats=parse_by_layer(formats))
        if activations is not None and activations != TIED:
            activations = parse_by_layer(activations)
        self._set(activations=activations)
        for name in ("include", "exclude", "groups"):
            value = getattr(self, name)
            if value is not None:
                self._set(**{name: as_selectors(name, value)})
        architecture = self.architecture
        if isinstance(architecture, SizeChoice):
            architecture = [architecture]
        self._set(architecture=tuple(architecture))
        if unknown := [
            c for c in self.architecture if not isinstance(c, SizeChoice)
        ]:
            raise ValueError(
                "Expected `architecture` to hold choices of "
                f"`fliqs_keras.nas`, such as `Width`. Received: {unknown}"
            )
        if unnamed := [g for g in self.groups if not isinstance(g, str)]:
            raise ValueError(
                "Expected `groups` to hold patterns, which name the "
                f"decisions. Received: {unnamed}"
            )
        if self.shared_inputs and self.activations is None:
            raise ValueError(
                "Expected `shared_inputs` only where activations are "
                "quantized. Received: shared_inputs=True and activations=None"
            )

    def _set(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __or__(self, other: "SearchSpace") -> "SearchSpace":
        """Returns the space of the formats of both, which agree in the rest.

        Raises:
            ValueError: If they differ in more than formats, or if formats are
                by layer.
        """
        if not isinstance(other, SearchSpace):
            return NotImplemented
        formats = union("formats", self.formats, other.formats)
        activations = self.activations
        if activations != other.activations:
            activations = union("activations", activations, other.activations)
        both = [
            dataclasses.replace(s, formats=formats, activations=activations)
            for s in (self, other)
        ]
        if both[0] != both[1]:
            raise ValueError(
                "Expected search spaces that differ in their formats alone. "
                f"Received: {self} and {other}"
            )
        return both[0]

    @classmethod
    def of(
        cls,
        search_space: "SearchSpace | Formats | Mapping[str, Formats]",
    ) -> "SearchSpace":
        """Returns a space as it is, or the space of the given formats."""
        return (
            search_space if isinstance(search_space, cls) else cls(search_space)
        )

    @classmethod
    def for_target(
        cls, target: str | Target, model: keras.Model, **arguments: Any
    ) -> "SearchSpace":
        """Returns the space of what a target can run of a model.

        Layers that the target cannot run quantized are left out.

        Args:
            target: A `fliqs_keras.Target`, or the name of one of the package.
            model: A built float model.
            **arguments: Further arguments of the space, such as `exclude`.

        Raises:
            ValueError: If the target is unknown or can run no layer quantized.

        Example:

        >>> space = SearchSpace.for_target("litert-cpu", model)
        """
        if isinstance(target, str):
            target = Target.named(target)
        return cls(target.formats_by_path(model), **arguments)

    def formats_of(self, lineage: Lineage) -> tuple[Format, ...]:
        """Returns the formats that a layer may take; none if it is left out.

        Args:
            lineage: The layers that the layer stands in and, last, itself,
                each by its path: the names of these layers, joined by `/`.
        """
        if not self.admits(lineage):
            return ()
        return take(self.formats, lineage)

    def activation_formats_of(
        self, lineage: Lineage
    ) -> tuple[Format, ...] | None:
        """Returns the formats that a layer's activations may take.

        Returns:
            The formats; none if activations stay in float, and `None` if they
            are tied to the weights.
        """
        if self.activations == TIED:
            return None
        if self.activations is None:
            return ()
        return take(self.activations, lineage)

    def group_of(self, lineage: Lineage) -> str | None:
        """Returns the first group that selects a layer, if any."""
        return next((g for g in self.groups if selects(g, lineage)), None)

    def decisions(
        self,
        model: keras.Model,
        *,
        quantize_configs: Mapping[str | type, QuantizeConfig] | None = None,
    ) -> dict[str, tuple[Option, ...]]:
        """Returns what `fliqs_keras.apply` would have to be decided.

        Args:
            model: A built float model, which is left as it is.
            quantize_configs: As for `fliqs_keras.apply`.

        Returns:
            A dictionary from the name of each decision to its options:
            formats, or sizes.

        Raises:
            ValueError: If the space does not fit the model.

        Example:

        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(2, name="head")]
        ... )
        >>> SearchSpace(["INT4", "INT8"]).decisions(model)
        {'head': (IntFormat(width=4), IntFormat(width=8))}
        """
        own = {k: as_switchable(v) for k, v in (quantize_configs or {}).items()}
        found = {}
        places = list(walk_layers(model, own))
        plans = plan_layers(model, self, own, places)
        masks = plan_sizes(
            model, self.architecture, places, [p.layer for p in plans]
        )
        for layer, config in plans:
            made = make_quantizers(layer, config, masks.get(id(layer), ()))
            quantizers = [q for _, q in made.weights] + [*made[1:]]
            for quantizer in quantizers:
                if quantizer is not None:
                    found.setdefault(quantizer.decision, quantizer.formats)
        for mask in itertools.chain(*masks.values()):
            found.setdefault(mask.decision, mask.options)
        return found

    def size(self, model: keras.Model) -> int:
        """Returns the number of assignments that a model may take."""
        return math.prod(len(f) for f in self.decisions(model).values())

    def to_json(self, path: str | os.PathLike) -> None:
        """Writes the space to a JSON file.

        Raises:
            ValueError: If a selector is a function, or a class that is not
                registered with Keras. There is then no file.
        """
        include = self.include and [selector_to_json(s) for s in self.include]
        content = {
            "formats": names_of(self.formats),
            "include": include,
            "exclude": [selector_to_json(s) for s in self.exclude],
            "activations": names_of(self.activations),
            "groups": list(self.groups),
            "shared_inputs": self.shared_inputs,
            "architecture": [choice.to_json() for choice in self.architecture],
        }
        write_atomically(path, json.dumps(content, indent=2) + "\n")

    @classmethod
    def from_json(cls, path: str | os.PathLike) -> "SearchSpace":
        """Reads a space that `to_json` wrote.

        Raises:
            ValueError: If the file holds anything else.
        """
        content = read_json(path)
        names = {field.name for field in dataclasses.fields(cls)}
        is_space = isinstance(content, dict) and "formats" in content
        if not is_space or set(content) - names:
            raise ValueError(
                f"Expected a JSON object of {sorted(names)} in {str(path)!r}. "
                f"Received: {content!r}"
            )
        for name in ("include", "exclude"):
            if content.get(name) is not None:
                content[name] = [selector_from_json(s) for s in content[name]]
        architecture = content.get("architecture", ())
        content["architecture"] = [choice_from_json(c) for c in architecture]
        return cls(**content)

    def admits(self, lineage: Lineage) -> bool:
        """Whether `include` and `exclude` let a layer in."""
        if self.include is not None and not selects_any(self.include, lineage):
            return False
        return not selects_any(self.exclude, lineage)

    def check_selectors(self, lineages: Iterable[Lineage]) -> None:
        """Checks that every pattern and class speaks of some layer.

        Args:
            lineages: Those of the layers that can be quantized.

        Raises:
            ValueError: If one does not, which is a slip of the pen, or if a
                pattern before it gives its layers other formats.
        """
        selectors = [*(self.include or ()), *self.exclude, *self.groups]
        for formats in (self.formats, self.activations):
            if isinstance(formats, Mapping):
                for name in formats:
                    selectors += find_parts(name, lineages)
                check_order(formats, lineages)
        for selector in selectors:
            is_function = callable(selector) and not isinstance(selector, type)
            if is_function or any(selects(selector, v) for v in lineages):
                continue
            raise ValueError(
                "Expected every pattern and class of the search space to "
                "select a layer that can be quantized. Received: "
                f"{selector!r}, which selects none of "
                f"{[list(lineage)[-1] for lineage in lineages]}"
            )


def _take_apart(
    formats: Mapping[str, Formats], activations: FormatsByLayer | None
) -> tuple[Mapping[str, Formats], FormatsByLayer | None]:
    """Returns the formats of weights and, unless given, of activations."""
    if isinstance(formats, FormatAssignment):
        weights, own = formats.by_layer()
        return weights, own if activations == TIED else activations
    if activations != TIED:
        return formats, activations
    weights, own = split_inputs(formats)
    if own != TIED:
        warn_of_float_inputs(weights, own)
    return weights, own
