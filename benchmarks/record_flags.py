"""The flag that says whether to keep figures, for several benchmarks."""

from absl import flags

RECORD = flags.DEFINE_bool(
    "record",
    False,
    "Whether to replace the published figures, in the folder of the "
    "benchmarks.",
)
