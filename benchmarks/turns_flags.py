"""The flag that says how many turns all take, for several benchmarks."""

from absl import flags

ROUNDS = flags.DEFINE_integer("turns", 9, "Rounds that are timed.", 1)
