"""What a search may choose from besides formats: sizes of the network."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from fliqs_keras.selectors import (
    Selector,
    as_selectors,
    selector_from_json,
    selector_to_json,
)

__all__ = ["Heads", "KernelSize", "Skip", "Width"]


@dataclasses.dataclass(frozen=True)
class SizeChoice:
    """Sizes that layers may take, up to the size that they are built with.

    Args:
        layers: The layers, as for `SearchSpace(include=...)`.
    """

    layers: Selector | Sequence[Selector]

    # What the names of its decisions end in.
    suffix: ClassVar[str]

    def __post_init__(self):
        self._set(layers=as_selectors("layers", self.layers))
        if not self.layers:
            raise ValueError(
                "Expected `layers` to select some layer. Received: layers=[]"
            )

    def _set(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def sizes(self, built: int) -> tuple[int, ...]:
        """Returns the sizes to choose from, rising.

        Args:
            built: The size that the layer is built with.

        Raises:
            ValueError: If a size is larger.
        """
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Returns the choice as JSON holds it."""
        fields = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self)
        }
        layers = [selector_to_json(s) for s in self.layers]
        return {"kind": type(self).__name__, **fields, "layers": layers}


@dataclasses.dataclass(frozen=True)
class _Sizes(SizeChoice):
    """Sizes that are given."""

    options: Sequence[int | float]

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.options, Iterable):
            raise ValueError(
                "Expected `options` to be a list of sizes. Received: "
                f"options={self.options!r}"
            )
        self._set(options=tuple(self.options))
        for option in self.options:
            is_number = isinstance(option, int | float)
            if not is_number or isinstance(option, bool) or option <= 0:
                raise ValueError(
                    "Expected `options` to be positive numbers. Received: "
                    f"options={self.options}"
                )
        if not self.options:
            raise ValueError(
                "Expected `options` to hold at least one size. Received: none"
            )

    def sizes(self, built: int) -> tuple[int, ...]:
        sizes = sorted({self._size(option, built) for option in self.options})
        if sizes[-1] > built:
            raise ValueError(
                f"Expected options of at most {built}, the size that the "
                f"layer is built with. Received: options={self.options}. "
                "Build the model at its largest"
            )
        return tuple(sizes)

    def _size(self, option: int | float, built: int) -> int:
        if isinstance(option, float):
            raise ValueError(
                "Expected `options` to be whole numbers. Received: "
                f"options={self.options}"
            )
        return option


@dataclasses.dataclass(frozen=True)
class Width(_Sizes):
    """Numbers of output channels that convolutions or dense layers may have.

    The smaller ones are the first channels of the largest, which the layer is
    built with. Layers whose outputs are added up must agree, and depthwise
    convolutions follow what they read: both are derived from the graph. One
    decision for all layers that agree, named `"conv:width"` by the first of
    those that are selected.

    Args:
        layers: The layers, as for `SearchSpace(include=...)`.
        options: Numbers of channels, or shares of those of the layer: floats
            of at most 1.0.
        divisor: Shares are rounded to multiples of it, at least one.

    Raises:
        ValueError: If an option is not positive. By `fliqs_keras.apply` if
            one is above the size of the layer, or if the channels cannot be
            changed, with the reason.

    Example:

    >>> fliqs_keras.nas.Width("expand_*", [0.5, 1.0], divisor=8)
    """

    divisor: int = 1

    suffix = ":width"

    def __post_init__(self):
        super().__post_init__()
        if self.divisor < 1:
            raise ValueError(
                "Expected `divisor` to be at least 1. Received: "
                f"divisor={self.divisor}"
            )

    def _size(self, option, built):
        if not isinstance(option, float):
            return option
        if option > 1:
            raise ValueError(
                "Expected shares of at most 1.0, the size that the layer is "
                f"built with. Received: options={self.options}"
            )
        if option == 1:
            return built
        divisor = min(self.divisor, built)
        size = max(divisor, round(option * built / divisor) * divisor)
        return min(size, built)


@dataclasses.dataclass(frozen=True)
class KernelSize(_Sizes):
    """Kernel sizes that convolutions may have, depthwise ones included.

    The smaller kernel is the centre of the largest, which the layer is built
    with. A decision for each layer, named `"conv:kernel"`.

    Args:
        layers: The layers, as for `SearchSpace(include=...)`.
        options: Odd numbers, none below the strides.

    Raises:
        ValueError: If an option is even. By `fliqs_keras.apply` if a layer
            has no padding, or a kernel that is not square, or if all stand
            within other layers.

    Example:

    >>> fliqs_keras.nas.KernelSize("depthwise_*", [3, 5, 7])
    """

    suffix = ":kernel"

    def __post_init__(self):
        super().__post_init__()
        if any(option % 2 != 1 for option in self.options):
            raise ValueError(
                "Expected odd kernel sizes, which have a centre. Received: "
                f"options={self.options}"
            )


@dataclasses.dataclass(frozen=True)
class Heads(_Sizes):
    """Numbers of heads that `keras.layers.MultiHeadAttention` may have.

    The smaller ones are the first heads. A decision for each layer, named
    `"attention:heads"`.

    Args:
        layers: The layers, as for `SearchSpace(include=...)`.
        options: Numbers of heads.

    Raises:
        ValueError: If an option is not positive. By `fliqs_keras.apply` if
            one is above the number of the layer, or if all layers stand
            within others.

    Example:

    >>> fliqs_keras.nas.Heads("*attention", [1, 2, 4])
    """

    suffix = ":heads"


@dataclasses.dataclass(frozen=True)
class Skip(SizeChoice):
    """Residual blocks that may be left out.

    A block is named by the `keras.layers.Add` that ends it, of two tensors of
    which one is computed from the other. A decision for each, named
    `"add:depth"`: one, or zero without the block.

    Args:
        layers: The `Add` layers, as for `SearchSpace(include=...)`.

    Raises:
        ValueError: By `fliqs_keras.apply` if a layer ends no such block, or
            one that shares quantized layers with the rest of the model.

    Example:

    >>> fliqs_keras.nas.Skip("block_*_add")
    """

    suffix = ":depth"

    def sizes(self, built: int) -> tuple[int, ...]:
        return 0, 1


_KINDS = {kind.__name__: kind for kind in (Width, KernelSize, Heads, Skip)}


def choice_from_json(value: Any) -> SizeChoice:
    """Returns what `SizeChoice.to_json` returned.

    Raises:
        ValueError: If it is anything else.
    """
    fields = dict(value) if isinstance(value, dict) else {}
    kind = _KINDS.get(fields.pop("kind", None))
    if kind is None or "layers" not in fields:
        raise ValueError(
            f"Expected a choice of a kind among {sorted(_KINDS)}. Received: "
            f"{value!r}"
        )
    fields["layers"] = [selector_from_json(s) for s in fields["layers"]]
    return kind(**fields)
