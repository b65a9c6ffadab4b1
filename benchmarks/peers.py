"""Times training steps of peers beside ours.

    python -m benchmarks.install_peers --environments=FOLDER
    python -m benchmarks.peers --environments=FOLDER --record

The network is the chain of convolutions. Each peer runs in an environment and
a process of its own, and is compared with the float step in the same process.
Prints the environment and the table. With `--record`, for which all peers are
needed, it also writes `benchmarks/peers.json` and the table in
`benchmarks/README.md`.
"""

import json

from absl import app

from benchmarks import peer_environments, peer_timing, records, step_timing
from benchmarks.peer_flags import ENVIRONMENTS, PEERS
from benchmarks.record_flags import RECORD
from benchmarks.step_flags import BATCH, DEPTH, STEPS
from benchmarks.turns_flags import ROUNDS


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only. Received: {argv[1:]}")
    missing = [p for p in peer_environments.PEERS if p not in PEERS.value]
    if RECORD.value and missing:
        raise app.UsageError(
            "Expected all peers, whose table --record replaces. Received: "
            f"--peers without {', '.join(missing)}. Leave out --record or "
            "--peers"
        )
    config = {
        "peers": PEERS.value,
        "depth": DEPTH.value,
        "batch": BATCH.value,
        "steps": STEPS.value,
        "rounds": ROUNDS.value,
    }
    environment = step_timing.environment()
    print(json.dumps(environment))
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
            records.write(
                "peers",
                {"environment": environment, "config": config, "rows": rows},
                text,
            )


if __name__ == "__main__":
    app.run(main)
