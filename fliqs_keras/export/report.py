"""What an export did: each weight, the bytes, and the agreement."""

import dataclasses
from collections.abc import Iterable

from fliqs_keras.export.results import LayerResult
from fliqs_keras.export.verification import VerificationReport

__all__ = ["ExportReport", "StorageCost", "storage_cost"]


@dataclasses.dataclass(frozen=True)
class StorageCost:
    """What one choice of `weight_storage` costs.

    Args:
        weight_storage: `"compact"` or `"fast"`.
        bytes: Bytes of all quantized weights, without their scales.
        decoded_each_time: Number of weights that runtimes decode anew at each
            inference, which also keeps their ops from the fastest kernels.
    """

    weight_storage: str
    bytes: int
    decoded_each_time: int


def storage_cost(
    weight_storage: str, layers: Iterable[LayerResult]
) -> StorageCost:
    """Returns what a choice of `weight_storage` costs.

    Args:
        weight_storage: The choice.
        layers: What became of each weight with it.
    """
    layers = list(layers)
    decoded = [row for row in layers if _is_decoded_each_time(row)]
    taken = sum(row.bytes for row in layers)
    return StorageCost(weight_storage, taken, len(decoded))


def _is_decoded_each_time(row: LayerResult) -> bool:
    """Whether runtimes do not decode a weight once, when they load it."""
    if row.kernel == "dequantize":
        return row.tensor_type not in ("INT8", "FLOAT16")
    return row.kernel == "lookup"


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What an exported file holds, and how well it agrees.

    Args:
        layers: A record for each quantized weight: the layer's path, format,
            tensor type in the file, bytes, kernel, whether it was matched,
            and the reason if it was not.
        file_bytes: Size of the file.
        mode: `"dequantize"` or `"integer"`; `None` for ONNX, whose runtimes
            decide.
        weight_storage: `"compact"` or `"fast"`; `None` for ONNX.
        storage_costs: What either choice of `weight_storage` costs.
        verification: How the file agrees with the Keras model, if it was
            verified.
    """

    layers: tuple[LayerResult, ...]
    file_bytes: int
    mode: str | None = None
    weight_storage: str | None = None
    storage_costs: tuple[StorageCost, ...] = ()
    verification: VerificationReport | None = None

    @property
    def weight_bytes(self) -> int:
        """Bytes that the quantized weights take, without their scales."""
        return sum(row.bytes for row in self.layers)

    @property
    def ideal_bytes(self) -> float:
        """Bytes that the weights would take at the bits of their formats."""
        return sum(row.ideal_bits for row in self.layers) / 8

    @property
    def left_in_float(self) -> tuple[LayerResult, ...]:
        """The weights that could not be stored in low bits."""
        return tuple(
            row
            for row in self.layers
            if row.format != "FP32"
            and (not row.matched or row.kernel == "float")
        )

    def render(self) -> str:
        """Returns the report as a table of text."""
        width = max([5, *(len(row.path) for row in self.layers)])
        lines = [
            f"{'layer':<{width}}  {'format':<7}{'stored':<9}{'bytes':>11}  "
            f"{'kernel':<11}{'input':<13}note"
        ]
        for row in self.layers:
            lines.append(
                f"{row.path:<{width}}  {row.format:<7}{row.tensor_type:<9}"
                f"{row.bytes:>11,}  {row.kernel:<11}{row.activation:<13}"
                f"{row.reason}".rstrip()
            )
        if self.mode is not None:
            lines.append(
                f"mode {self.mode}, weight storage {self.weight_storage}"
            )
        lines += [
            f"weights {self.weight_bytes:,} bytes (at the bits of their "
            f"formats {self.ideal_bytes:,.0f}), file {self.file_bytes:,} bytes",
        ]
        lines += [
            f"weight storage {cost.weight_storage}: {cost.bytes:,} bytes, "
            f"{cost.decoded_each_time} weights decoded at each inference"
            for cost in self.storage_costs
        ]
        if self.verification is not None:
            lines.append(self.verification.render())
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.render()
