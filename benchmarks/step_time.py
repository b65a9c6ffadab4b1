"""Times training steps of searches beside steps of the float network.

    python -m benchmarks.step_time --timed_network=chain --jit_compile=false

Each way to train takes its turn in every round, so that whatever else the
machine does meets all of them; ratios are of the medians over all steps. The
first round, which compiles, is timed apart. Prints a table and writes JSON.
"""

from absl import app, flags

from benchmarks import networks, step_timing
from benchmarks.jit_flags import JIT_COMPILE
from benchmarks.output_flags import OUTPUT
from benchmarks.step_flags import BATCH, DEPTH, STEPS
from benchmarks.turns_flags import ROUNDS

_NETWORK = flags.DEFINE_enum(
    "timed_network", "chain", networks.NETWORKS, "The network."
)
_WAYS = flags.DEFINE_list(
    "ways", None, "Ways to train; all that the network has by default."
)
_MEMORY = flags.DEFINE_bool(
    "memory", False, "Measure peak memory, each way in a process of its own."
)
flags.register_multi_flags_validator(
    ["ways", "timed_network"],
    lambda f: (
        set(f["ways"] or ()) <= set(step_timing.ways_of(f["timed_network"]))
    ),
    f"Expected some of {', '.join(step_timing.WAYS)}, of sizes only for "
    f"--timed_network={networks.SIZED}.",
)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only. Received: {argv[1:]}")
    config = {
        "network": _NETWORK.value,
        "depth": DEPTH.value,
        "jit_compile": JIT_COMPILE.value,
        "batch": BATCH.value,
        "steps": STEPS.value,
        "rounds": ROUNDS.value,
        "ways": _WAYS.value or step_timing.ways_of(_NETWORK.value),
    }
    rows = (
        step_timing.measure_memory
        if _MEMORY.value
        else step_timing.measure_time
    )(config)
    step_timing.report(config, rows, OUTPUT.value)


if __name__ == "__main__":
    app.run(main)
