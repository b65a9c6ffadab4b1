"""The flag that says where figures go, for several benchmarks."""

from absl import flags

OUTPUT = flags.DEFINE_string("json", None, "File for the JSON.")
