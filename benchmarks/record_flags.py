"""The flag that says whether to keep figures, for several benchmarks."""

from absl import flags

RECORD = flags.DEFINE_bool(
    "record", True, "Whether to write into the folder of the benchmarks."
)
