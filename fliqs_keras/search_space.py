"""What a search may choose from: which layers, which formats."""

import dataclasses
import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence

import keras

from fliqs_keras.formats import Format, parse_format

__all__ = ["SearchSpace"]

Formats = str | Format | Sequence[str | Format]
Selector = str | type | Callable[[str, keras.layers.Layer], bool]
Lineage = Mapping[str, keras.layers.Layer]


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """The layers of a model that are quantized, and the formats of each.

    One decision a layer: its weights and its input take the same format. All
    layers that can be quantized are, the first and the last included, unless
    `include`, `exclude` or `formats` leave them out.

    Args:
        formats: Formats or their names, at least one, each once. A single
            format is plain quantization-aware training. Or a dictionary from
            patterns to such formats, as a `FormatAssignment` is: a layer
            takes those of its own path or else of the first pattern that
            selects it, and one that none selects is left out.
        include: The layers to quantize. Each of a list of selectors, or a
            single one, is a pattern of layer paths, in which `*` and `?`
            stand for any characters (`"block1/*"`), a layer class, or a
            function `select(path, layer) -> bool`. What it selects comes
            with all that is in it. Defaults to all.
        exclude: The layers to leave out, in the same way. Defaults to none.

    Raises:
        ValueError: If there is no format, or one twice, or an unknown name,
            or if a selector is of another kind.

    Example:

    >>> space = SearchSpace(["INT4", "INT8"], exclude="head")
    >>> space.formats
    (IntFormat(width=4), IntFormat(width=8))
    >>> space = SearchSpace({"stem": "INT8", "*": ["INT2", "INT4"]})
    """

    formats: Formats | Mapping[str, Formats]
    include: Selector | Sequence[Selector] | None = None
    exclude: Selector | Sequence[Selector] = ()

    def __post_init__(self):
        if isinstance(self.formats, Mapping):
            formats = {k: _parse(v) for k, v in self.formats.items()}
            if not formats:
                raise ValueError(
                    "Expected `formats` to hold the formats of at least one "
                    "layer. Received: formats={}"
                )
        else:
            formats = _parse(self.formats)
        object.__setattr__(self, "formats", formats)
        for name in ("include", "exclude"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _as_selectors(name, value))

    @classmethod
    def of(
        cls,
        search_space: "SearchSpace | Formats | Mapping[str, Formats]",
    ) -> "SearchSpace":
        """Returns a space as it is, or the space of the given formats."""
        return (
            search_space if isinstance(search_space, cls) else cls(search_space)
        )

    def formats_of(self, lineage: Lineage) -> tuple[Format, ...]:
        """Returns the formats that a layer may take; none if it is left out.

        Args:
            lineage: The layers that the layer stands in and, last, itself,
                each by its path: the names of these layers, joined by `/`.
        """
        if not self.admits(lineage):
            return ()
        if not isinstance(self.formats, Mapping):
            return self.formats
        path = list(lineage)[-1]
        if path in self.formats:
            return self.formats[path]
        for pattern, formats in self.formats.items():
            if _selects(pattern, lineage):
                return formats
        return ()

    def admits(self, lineage: Lineage) -> bool:
        """Whether `include` and `exclude` let a layer in."""
        if self.include is not None and not _any(self.include, lineage):
            return False
        return not _any(self.exclude, lineage)

    def check_selectors(self, lineages: Iterable[Lineage]) -> None:
        """Checks that every pattern and class speaks of some layer.

        Args:
            lineages: Those of the layers that can be quantized.

        Raises:
            ValueError: If one does not, which is a slip of the pen.
        """
        selectors = [*(self.include or ()), *self.exclude]
        if isinstance(self.formats, Mapping):
            selectors += self.formats
        for selector in selectors:
            is_function = callable(selector) and not isinstance(selector, type)
            if is_function or any(_selects(selector, v) for v in lineages):
                continue
            raise ValueError(
                "Expected every pattern and class of the search space to "
                "select a layer that can be quantized. Received: "
                f"{selector!r}, which selects none of "
                f"{[list(lineage)[-1] for lineage in lineages]}"
            )


def _parse(formats: Formats) -> tuple[Format, ...]:
    if isinstance(formats, str | Format):
        formats = (formats,)
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


def _as_selectors(
    name: str, value: Selector | Sequence[Selector]
) -> tuple[Selector, ...]:
    is_single = isinstance(value, str) or callable(value)
    selectors = (value,) if is_single else tuple(value)
    for selector in selectors:
        if not isinstance(selector, str) and not callable(selector):
            raise ValueError(
                f"Expected `{name}` to hold patterns, layer classes or "
                f"functions. Received: {selector!r}"
            )
    return selectors


def _any(selectors: Iterable[Selector], lineage: Lineage) -> bool:
    return any(_selects(selector, lineage) for selector in selectors)


def _selects(selector: Selector, lineage: Lineage) -> bool:
    return any(_matches(selector, *place) for place in lineage.items())


def _matches(selector: Selector, path: str, layer: keras.layers.Layer) -> bool:
    if isinstance(selector, str):
        return path == selector or fnmatch.fnmatchcase(path, selector)
    if isinstance(selector, type):
        return isinstance(layer, selector)
    return bool(selector(path, layer))
