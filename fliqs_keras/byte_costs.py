"""What the weights of an assignment take in an exported file."""

import keras
import numpy as np

from fliqs_keras.costs import Cost, CostTerm
from fliqs_keras.export.storage import storage_of
from fliqs_keras.formats import parse_format
from fliqs_keras.quantized_layers import QuantizedLayer, quantized_layers
from fliqs_keras.quantizers import SwitchableQuantizer
from fliqs_keras.size_masks import WEIGHT, Share, alive_share

__all__ = ["WeightBytes"]

_SCALE_BYTES = 4


class WeightBytes(Cost):
    """Bytes of the quantized weights in the file that `export_tflite` writes.

    The codes, in the types that the exporter stores them in, and a float32
    scale for each output channel: INT3 takes what INT4 does. What does not
    depend on the formats is left out: biases, weights that stay in float, and
    the rest of the file.

    Args:
        weight_storage: `"compact"` or `"fast"`, as for `export_tflite`.
        mode: `"dequantize"` or `"integer"`, as for `export_tflite`.

    Raises:
        ValueError: If an argument is unknown.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> WeightBytes()(fliqs_keras.apply(model, "INT8"))
    16.0
    """

    unit = "bytes"

    def __init__(
        self, weight_storage: str = "compact", mode: str = "dequantize"
    ):
        if mode not in ("dequantize", "integer"):
            raise ValueError(
                "Expected `mode` to be 'dequantize' or 'integer'. Received: "
                f"mode={mode!r}"
            )
        # Refuses what it does not know.
        storage_of(parse_format("INT8"), weight_storage, mode)
        self.weight_storage = weight_storage
        self.mode = mode

    def terms(self, model: keras.Model) -> list[CostTerm]:
        return [
            self._term(layer, variable, quantizer)
            for layer in quantized_layers(model)
            for variable, quantizer in layer.quantized_weights()
        ]

    def _term(
        self,
        layer: QuantizedLayer,
        variable: keras.Variable,
        quantizer: SwitchableQuantizer,
    ) -> CostTerm:
        share = alive_share(layer.size_masks())
        elements = int(np.prod(variable.shape))
        channels = int(np.prod(quantizer.channel_shape))
        alive_channels = channels * _channel_share(
            layer, quantizer, variable, share
        )
        is_table = isinstance(layer, keras.layers.Embedding)
        rows = []
        for number_format in quantizer.formats:
            storage = storage_of(number_format, self.weight_storage, self.mode)
            scales = alive_channels * (number_format.scaled and bool(storage))
            sizes = np.rint(elements * share.values).astype(int)
            nbytes = np.vectorize(storage.nbytes if storage else _float_bytes)
            codes = nbytes(sizes)
            if is_table and storage and storage.tensor_type == "INT2":
                # No runtime looks it up, nor rows of part of a byte.
                looked_up = np.vectorize(
                    storage_of(parse_format("INT4")).nbytes
                )
                is_whole = np.rint(alive_channels) % 2 == 0
                codes = np.where(is_whole, looked_up(sizes), codes)
            rows.append(codes + _SCALE_BYTES * scales)
        return CostTerm(
            (quantizer.decision, *share.decisions),
            np.array(rows, dtype="float64"),
        )


def _float_bytes(size: int) -> int:
    return 4 * size


def _channel_share(
    layer: QuantizedLayer,
    quantizer: SwitchableQuantizer,
    variable: keras.Variable,
    share: Share,
) -> np.ndarray:
    """Returns the share of the channels with a scale that is alive."""
    rank = len(variable.shape)
    scaled = {axis % rank for axis in quantizer.channel_axes}
    masks = [
        mask
        for mask in layer.size_masks()
        if mask.subject != WEIGHT or {a % rank for a in mask.axes} <= scaled
    ]
    names, values = alive_share(masks)
    shape = [
        values.shape[names.index(name)] if name in names else 1
        for name in share.decisions
    ]
    return values.reshape(shape)
