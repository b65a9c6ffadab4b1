"""What the weights of an assignment take in an exported file."""

import keras
import numpy as np

from fliqs_keras.costs import Cost, CostTerm
from fliqs_keras.export.storage import Storage, storage_of
from fliqs_keras.formats import Format, parse_format
from fliqs_keras.quantized_layers import quantized_layers
from fliqs_keras.quantizers import SwitchableQuantizer

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
            CostTerm(
                (quantizer.decision,),
                np.array(
                    [
                        self._bytes(layer, variable, quantizer, f)
                        for f in quantizer.formats
                    ],
                    dtype="float64",
                ),
            )
            for layer in quantized_layers(model)
            for variable, quantizer in layer.quantized_weights()
        ]

    def _bytes(
        self,
        layer: keras.layers.Layer,
        variable: keras.Variable,
        quantizer: SwitchableQuantizer,
        number_format: Format,
    ) -> int:
        size = int(np.prod(variable.shape))
        storage = self._storage(layer, number_format)
        if storage is None:
            return 4 * size
        channels = int(np.prod(quantizer.channel_shape))
        scales = channels if number_format.scaled else 0
        return storage.nbytes(size) + _SCALE_BYTES * scales

    def _storage(
        self, layer: keras.layers.Layer, number_format: Format
    ) -> Storage | None:
        storage = storage_of(number_format, self.weight_storage, self.mode)
        is_table = isinstance(layer, keras.layers.Embedding)
        if is_table and storage and storage.tensor_type == "INT2":
            # No runtime looks it up.
            return storage_of(parse_format("INT4"))
        return storage
