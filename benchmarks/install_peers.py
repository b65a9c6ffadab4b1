"""Installs each peer into an environment of its own.

    python -m benchmarks.install_peers --environments=FOLDER

Our own environment is left alone. About 2 GB a peer, of which TensorFlow is
most.
"""

import sys

from absl import app, flags

from benchmarks import peer_environments
from benchmarks.peer_flags import ENVIRONMENTS, PEERS

_PYTHON = flags.DEFINE_string(
    "python", sys.executable, "Interpreter to make the environments with."
)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only. Received: {argv[1:]}")
    if ENVIRONMENTS.value is None:
        raise app.UsageError("Expected --environments. Received: none")
    peer_environments.install(PEERS.value, ENVIRONMENTS.value, _PYTHON.value)


if __name__ == "__main__":
    app.run(main)
