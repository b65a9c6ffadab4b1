"""The flags of what is timed, for several recipes."""

from absl import flags

SIZE = flags.DEFINE_integer("size", 224, "Height and width of the images.", 8)
ROUNDS = flags.DEFINE_integer("rounds", 60, "Runs of each file.", 1)
