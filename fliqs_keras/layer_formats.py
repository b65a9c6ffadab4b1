"""Formats of all layers, or of each by pattern, as a search space has them."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import logging

from fliqs_keras.formats import Format, parse_format
from fliqs_keras.quantize_configs import INPUT
from fliqs_keras.selectors import Lineage, selects

Formats = str | Format | Sequence[str | Format]
FormatsByLayer = Formats | Mapping[str, Formats]

TIED = "tied"


def split_inputs(
    formats: Mapping[str, Formats],
) -> tuple[Mapping[str, Formats], FormatsByLayer]:
    """Takes decisions of layers apart, by name: of weights, of inputs."""
    inputs = {
        name.removesuffix(INPUT): value
        for name, value in formats.items()
        if name.endswith(INPUT)
    }
    if not inputs:
        return formats, TIED
    return {k: v for k, v in formats.items() if not k.endswith(INPUT)}, inputs


def split_decisions(
    formats: Mapping[str, Formats],
) -> tuple[Mapping[str, Formats], FormatsByLayer]:
    """As `split_inputs`, by the names of single layers."""
    return split_inputs(
        {
            part + (INPUT if name.endswith(INPUT) else ""): value
            for name, value in formats.items()
            for part in _parts(name.removesuffix(INPUT))
        }
    )


def check_names(argument: str, formats: Any) -> None:
    """Checks that formats are by pattern, if they are by layer.

    Raises:
        ValueError: If a key is no pattern.
    """
    names = formats if isinstance(formats, Mapping) else ()
    if others := [name for name in names if not isinstance(name, str)]:
        raise ValueError(
            f"Expected `{argument}` by patterns of layer paths. Received: "
            f"{others}. Name the layers by a pattern, or select a class by "
            "`SearchSpace(include=...)`"
        )


def warn_of_float_inputs(
    weights: Mapping[str, Formats], inputs: Mapping[str, Formats]
) -> None:
    """Warns where inputs are named, but not those of all layers."""
    if "*" in inputs or set(weights) <= set(inputs):
        return
    logging.warning(
        "Inputs of layers that none of %s selects stay in float. Give them "
        "formats, too, by '*:input', or by `SearchSpace(activations=...)`.",
        [name + INPUT for name in inputs],
    )


def _parts(name: str) -> list[str]:
    # A decision of several layers is named by all of them.
    return name.split("+")


def find_parts(name: str, lineages: Iterable[Lineage]) -> list[str]:
    """Returns the patterns in a name: itself, if it selects some layer."""
    is_whole = any(selects(name, lineage) for lineage in lineages)
    return [name] if is_whole else _parts(name)


def take(formats: Any, lineage: Lineage) -> tuple[Format, ...]:
    """Returns the formats of a layer, from those of all or by pattern."""
    if not isinstance(formats, Mapping):
        return formats
    return formats.get(_pattern_of(formats, lineage), ())


def check_order(
    formats: Mapping[str, Any], lineages: Iterable[Lineage]
) -> None:
    """Checks that no pattern stands behind one that takes all its layers.

    Raises:
        ValueError: If one does, and the formats of the two differ.
    """
    paths = {list(lineage)[-1] for lineage in lineages}
    paths |= {name for name in formats if paths.issuperset(_parts(name))}
    for pattern in formats:
        if pattern in paths:
            continue
        taken = {
            _pattern_of(formats, lineage)
            for lineage in lineages
            if _selects(pattern, lineage)
        }
        hiding = [
            other
            for other in formats
            if other in taken - paths and formats[other] != formats[pattern]
        ]
        if hiding and pattern not in taken:
            raise ValueError(
                "Expected each pattern to give some layer its formats; a "
                "layer takes those of the first that selects it. Received: "
                f"{pattern!r}, whose layers are taken by {hiding[0]!r}. Put "
                f"{pattern!r} first"
            )


def _pattern_of(formats: Mapping[str, Any], lineage: Lineage) -> str | None:
    path = list(lineage)[-1]
    if path in formats:
        return path
    exact = (p for p in formats if path in _parts(p))
    others = (p for p in formats if _selects(p, lineage))
    return next(itertools.chain(exact, others), None)


def _selects(name: str, lineage: Lineage) -> bool:
    return any(selects(part, lineage) for part in (name, *_parts(name)))


def union(name: str, a: Any, b: Any) -> tuple[Format, ...]:
    """Returns the formats of both.

    Raises:
        ValueError: If either is by layer.
    """
    if not isinstance(a, tuple) or not isinstance(b, tuple):
        raise ValueError(
            f"Expected `{name}` to be formats for all layers, to unite them. "
            f"Received: {a} and {b}. Write the united formats by layer out"
        )
    return tuple(dict.fromkeys(a + b))


def names_of(formats: Any) -> Any:
    """Returns formats by their names, as JSON holds them."""
    if isinstance(formats, Mapping):
        return {k: names_of(v) for k, v in formats.items()}
    if isinstance(formats, tuple):
        return [f.name for f in formats]
    return formats


def parse_by_layer(formats: FormatsByLayer) -> Any:
    """Parses formats, of all layers or by pattern.

    Raises:
        ValueError: If there is none, one twice, or an unknown name.
    """
    if isinstance(formats, Mapping):
        return {k: _parse(v) for k, v in formats.items()}
    return _parse(formats)


def _parse(formats: Formats) -> tuple[Format, ...]:
    if isinstance(formats, str | Format):
        formats = (formats,)
    if not isinstance(formats, Iterable):
        raise ValueError(
            "Expected formats or the names of some. Received: "
            f"{formats!r}. An assignment with sizes is one of a model that "
            "has such choices: call `apply` with their search space, and "
            "`assignment.apply_to` on the model"
        )
    parsed = tuple(parse_format(f) for f in formats)
    if not parsed:
        raise ValueError(
            "Expected a search space of at least one format. Received: "
            "formats=[]"
        )
    if len(set(parsed)) < len(parsed):
        raise ValueError(
            "Expected each format of a search space once. Received: "
            f"formats={[f.name for f in parsed]}"
        )
    return parsed
