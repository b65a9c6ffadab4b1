"""What the exporter is told of a quantized layer: plain data."""

import dataclasses

import numpy as np

from fliqs_keras.formats import Format

__all__ = ["ActivationSpec", "LayerSpec", "WeightSpec"]


@dataclasses.dataclass(frozen=True, eq=False)
class WeightSpec:
    """A weight on its grid: the quantized weight is `codes * scale`.

    Args:
        format: The number format of the codes.
        codes: Codes of the format as float32, in the shape of the weight.
        scale: One factor for each index of `channel_axis`, or a single one.
        channel_axis: Axis of `codes` that has a scale an index, or `None`.

    Raises:
        ValueError: If the shapes do not agree, or if `codes` holds values
            that are not codes of the format.
    """

    format: Format
    codes: np.ndarray
    scale: np.ndarray
    channel_axis: int | None

    def __post_init__(self):
        codes = np.asarray(self.codes, np.float32)
        scale = np.asarray(self.scale, np.float32).reshape(-1)
        channels = 1
        if self.channel_axis is not None:
            if not -codes.ndim <= self.channel_axis < codes.ndim:
                raise ValueError(
                    "Expected `channel_axis` to be an axis of `codes`. "
                    f"Received: channel_axis={self.channel_axis} and codes "
                    f"of shape {codes.shape}"
                )
            channels = codes.shape[self.channel_axis]
        if scale.size != channels:
            raise ValueError(
                f"Expected `scale` to hold {channels} elements, one for each "
                "index of `channel_axis` (or one in all if that is None). "
                f"Received: scale of shape {np.shape(self.scale)}"
            )
        strangers = codes[~_are_codes(codes, self.format)]
        if strangers.size:
            raise ValueError(
                f"Expected `codes` to hold codes of {self.format} only. "
                f"Received: {strangers.size} other values, such as "
                f"{strangers[0]}; codes are weights divided by their scale "
                "and rounded"
            )
        object.__setattr__(self, "codes", codes)
        object.__setattr__(self, "scale", scale)


def _are_codes(values: np.ndarray, format: Format) -> np.ndarray:
    if format.is_pass_through:
        return np.isfinite(values)
    codes = format.codes()
    position = np.searchsorted(codes, values)
    return codes[np.minimum(position, codes.size - 1)] == values


@dataclasses.dataclass(frozen=True)
class ActivationSpec:
    """How the input of a layer is quantized, symmetrically around zero.

    `y = scale * round_to_grid(clip(x / scale, -max_code, max_code))`, where
    halves are rounded to even.

    Args:
        format: The number format of the codes.
        scale: The positive factor of the codes; one where the format is used
            without a scale.

    Raises:
        ValueError: If `scale` is not a positive, normal float32.
    """

    format: Format
    scale: float

    def __post_init__(self):
        limits = np.finfo(np.float32)
        if not limits.tiny <= self.scale <= limits.max:
            raise ValueError(
                "Expected `scale` to be a positive, normal float32. "
                f"Received: scale={self.scale!r}"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class LayerSpec:
    """The quantized weights and the quantized input of one layer.

    Args:
        path: The path that the layer's markers carry.
        weights: The weights that are quantized.
        activation: The quantization of the layer's input, or `None`.
    """

    path: str
    weights: tuple[WeightSpec, ...]
    activation: ActivationSpec | None
