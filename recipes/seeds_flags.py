"""The flag that says how often runs are repeated, for several recipes."""

from absl import flags

NUM_SEEDS = flags.DEFINE_integer(
    "num_seeds", 3, "Number of seeds, from 0 on.", lower_bound=1
)
