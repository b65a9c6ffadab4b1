"""Which version of an op a file must ask for."""

from collections.abc import Iterable

# Where an op needs a later version than its first, by the low-bit type that it
# reads or writes, and for broadcasting more than four dimensions.
_TYPE_VERSIONS = {
    "CAST": {"FLOAT16": 5, "BFLOAT16": 7},
    "DEQUANTIZE": {"INT2": 6, "INT4": 6, "INT8": 5, "INT16": 3, "FLOAT16": 3},
    "GATHER": {"INT4": 7, "INT8": 2, "INT16": 4},
    # The integer kernels of ops that were converted as float ops.
    "ADD": {"INT8": 2},
    "AVERAGE_POOL_2D": {"INT8": 2},
    "BATCH_TO_SPACE_ND": {"INT8": 2},
    "CONCATENATION": {"INT8": 2},
    "CONV_2D": {"INT8": 3, "INT4": 7},
    "DEPTHWISE_CONV_2D": {"INT8": 3, "INT4": 7},
    "FULLY_CONNECTED": {"INT8": 12},
    "MAX_POOL_2D": {"INT8": 2},
    "MEAN": {"INT8": 2},
    "PAD": {"INT8": 2},
    # With the centers of pixels at their halves, as the exporter has them.
    "RESIZE_NEAREST_NEIGHBOR": {"INT8": 3},
    "SLICE": {"INT8": 2},
    "SPACE_TO_BATCH_ND": {"INT8": 2},
    "STRIDED_SLICE": {"INT8": 2},
    "TRANSPOSE": {"INT8": 2},
    "QUANTIZE": {"INT16": 2},
}
_WIDE_BROADCAST_VERSIONS = {"DIV": 2, "MAXIMUM": 3, "MINIMUM": 3, "SUB": 3}


def op_version(kind: str, type_names: Iterable[str], rank: int) -> int:
    """Returns the lowest version of an op that does what it is used for.

    Args:
        kind: Name of the op, such as `"CONV_2D"`.
        type_names: Types of its inputs and its output, such as `"INT8"`.
        rank: Number of dimensions of its output.
    """
    by_type = _TYPE_VERSIONS.get(kind, {})
    version = max(by_type.get(name, 1) for name in type_names)
    if rank > 4:
        version = max(version, _WIDE_BROADCAST_VERSIONS.get(kind, 1))
    return version
