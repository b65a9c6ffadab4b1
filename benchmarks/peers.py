"""Times training steps of peers beside ours.

    python -m benchmarks.install_peers --environments=FOLDER
    python -m benchmarks.peers --environments=FOLDER

The network is the chain of convolutions. Each peer runs in an environment and
a process of its own, and is compared with the float step in the same process.
Prints the table, and writes `benchmarks/peers.json` and the table in
`benchmarks/README.md`.
"""

import platform

from absl import app

from benchmarks import peer_timing, records
from benchmarks.peer_flags import ENVIRONMENTS, PEERS
from benchmarks.record_flags import RECORD
from benchmarks.timing_flags import BATCH, DEPTH, ROUNDS, STEPS


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only. Received: {argv[1:]}")
    config = {
        "peers": PEERS.value,
        "depth": DEPTH.value,
        "batch": BATCH.value,
        "steps": STEPS.value,
        "rounds": ROUNDS.value,
    }
    machine = {"machine": platform.machine(), "system": platform.system()}
    rows = []
    for jit_compile in (False, True):
        rows += peer_timing.measure(
            {
                **config,
                "environments": ENVIRONMENTS.value,
                "jit_compile": jit_compile,
            }
        )
        text = peer_timing.render(rows)
        print(text, flush=True)
        if RECORD.value:
            result = {"machine": machine, "config": config, "rows": rows}
            records.write("peers", result, text)


if __name__ == "__main__":
    app.run(main)
