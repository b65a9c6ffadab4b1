"""The flags of what steps are timed, for several benchmarks."""

from absl import flags

DEPTH = flags.DEFINE_integer("depth", 6, "Layers of the chain.", 1)
BATCH = flags.DEFINE_integer("batch", 64, "Examples of a step.", 1)
STEPS = flags.DEFINE_integer("steps", 10, "Steps of a round.", 4)
