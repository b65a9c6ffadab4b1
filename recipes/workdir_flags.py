"""The flag that says where a run is kept, for several recipes."""

from absl import flags

WORKDIR = flags.DEFINE_string("workdir", "runs/digits", "Folder of the run.")
