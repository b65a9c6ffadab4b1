"""What became of each weight, as a plain record with reasons."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

from fliqs_keras.export.specs import LayerSpec, WeightSpec
from fliqs_keras.export.tracing import Trace

__all__ = ["LayerResult", "Placement", "summarize"]

# Types that integer kernels read.
_INTEGERS = ("INT2", "INT4", "INT8")


class AnyStorage(Protocol):
    """What is asked of the storage of every kind of file."""

    tensor_type: str
    lookup: bool


@dataclasses.dataclass(frozen=True)
class LayerResult:
    """What became of one weight of a layer.

    Args:
        path: Path of the layer.
        format: Name of the weight's format.
        tensor_type: Type of the constant in the file, such as `"INT4"`;
            empty if no output of the model needs the layer.
        bytes: Bytes that the weight's values take in the file, without scales
            and tables; none if another weight's constant serves.
        ideal_bits: Bits that they would take at those of the format.
        kernel: `"integer"` if ops compute on the codes; else how the values
            become float32: `"dequantize"`, `"lookup"`, or `"float"` if they
            are float32 in the file.
        activation: How the layer's input is rounded: `"INT8"`,
            `"E4M3 in float"`, or nothing.
        matched: Whether the weight was recognized wherever the layer is used.
        reason: Why it was not, or what else is worth knowing; often empty.
    """

    path: str
    format: str
    tensor_type: str
    bytes: int
    ideal_bits: int
    kernel: str
    activation: str
    matched: bool
    reason: str


@dataclasses.dataclass(frozen=True)
class Placement:
    """A constant of the file that a weight was recognized in.

    Args:
        storage: How it is held now, or `None` for float32.
        bytes: Bytes that it takes on behalf of this weight.
        codes: The tensor that holds the codes, or `None` for float32.
        note: What is worth knowing; may be empty.
        is_integer: Whether ops compute on the codes as they are.
    """

    storage: AnyStorage | None
    bytes: int
    codes: int | None
    note: str
    is_integer: bool = False

    def in_integer_mode(self, reasons: Mapping[int, str]) -> "Placement":
        """Returns the placement with what integer mode made of it.

        Args:
            reasons: Why the ops that read a constant compute in float, by
                constant, as `use_integer_kernels` returns it.
        """
        if self.storage is None:
            return self
        reason = reasons.get(self.codes, self._why_in_float())
        notes = [self.note, f"in float: {reason}" if reason else ""]
        return dataclasses.replace(
            self,
            note="; ".join(filter(None, notes)),
            is_integer=not reason,
        )

    def _why_in_float(self) -> str:
        if self.storage.lookup or self.storage.tensor_type not in _INTEGERS:
            return "its weight is no integer of at most 8 bits"
        return "no op that reads its weight has an integer kernel"


def summarize(
    layer: LayerSpec,
    weight: WeightSpec,
    traces: Sequence[Trace],
    placements: Sequence[Placement],
    is_input_quantized: bool,
) -> LayerResult:
    """Sums up what became of a weight.

    Args:
        layer: Its layer.
        weight: The weight.
        traces: What was found behind each marker of the layer.
        placements: The constants that the weight was recognized in.
        is_input_quantized: Whether the file rounds the layer's input.
    """
    if not traces:
        return LayerResult(
            path=layer.path,
            format=weight.format.name,
            tensor_type="",
            bytes=0,
            ideal_bits=0,
            kernel="",
            activation="",
            matched=True,
            reason="not in the file: no output needs the layer",
        )
    # A format has one storage, so the first stands for all.
    storage = placements[0].storage if placements else None
    kernel = "float"
    if storage is not None:
        kernel = "lookup" if storage.lookup else "dequantize"
    if placements and all(p.is_integer for p in placements):
        kernel = "integer"
    taken = sum(placement.bytes for placement in placements)
    lost = sum(not trace.uses for trace in traces)
    reasons = list(dict.fromkeys(p.note for p in placements if p.note))
    if not placements:
        taken = 4 * weight.codes.size
        reasons.append(_why_missing(traces))
    elif lost:
        reasons.append(f"float32 at {lost} of {len(traces)} uses of the layer")
    return LayerResult(
        path=layer.path,
        format=weight.format.name,
        tensor_type=storage.tensor_type if storage else "FLOAT32",
        bytes=taken,
        ideal_bits=weight.codes.size * weight.format.bits,
        kernel=kernel,
        activation=_describe_input(layer) if is_input_quantized else "",
        matched=bool(placements) and not lost,
        reason="; ".join(reasons),
    )


def _describe_input(layer: LayerSpec) -> str:
    format = layer.activation.format
    return format.name if format.is_integer else f"{format} in float"


def _why_missing(traces: Sequence[Trace]) -> str:
    others = list(dict.fromkeys(o for trace in traces for o in trace.others))
    if not others:
        other = "other " if any(trace.uses for trace in traces) else ""
        return f"no {other}op with constant weights follows the layer's marker"
    return (
        "no constant behind the layer's marker is the weight times a factor "
        f"for each channel; found {', '.join(others)}"
    )
