"""The peers, and the environment that each of them has to itself."""

import dataclasses
import pathlib
import subprocess
import sys
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Peer:
    """A library whose training steps are timed beside ours.

    Attributes:
        requirements: What pip installs into its environment; none for what
            runs in our own.
        ways: Ways to train that are timed beside float.
        does: What a step of it does, for the reader of the table.
        variables: Environment variables that it needs.
    """

    requirements: tuple[str, ...]
    ways: tuple[str, ...]
    does: str
    variables: dict[str, str] = dataclasses.field(default_factory=dict)


PEERS = {
    "fliqs_keras": Peer(
        (),
        ("fixed INT8", "fixed E4M3", "search of 2 formats"),
        "any format; a threshold for each format and channel, kept up in "
        "training",
    ),
    "keras": Peer(
        (),
        ("fake_quant op",),
        "integers; the op alone, with constant ranges of activations: the "
        "floor",
    ),
    "tfmot": Peer(
        (
            "tensorflow-model-optimization==0.8.1",
            "tf_keras==2.21.0",
            "tensorflow==2.21.0",
        ),
        ("default 8 bit",),
        "integers; moving averages of ranges; Keras 2",
        {"TF_USE_LEGACY_KERAS": "1"},
    ),
    "hgq2": Peer(
        ("hgq2==0.2.0", "keras==3.15.1", "tensorflow==2.21.0"),
        ("learned bits",),
        "fixed point; learns the bits of each weight by gradients",
    ),
    "qkeras": Peer(
        ("qkeras-v3==1.2.1", "keras==3.15.1", "tensorflow==2.21.0"),
        ("quantized_bits(8)",),
        "fixed point; constant ranges; leaves the image and the pooled "
        "features in float",
    ),
}


def python_of(peer: str, folder: str | None) -> str:
    """Returns the interpreter of a peer's environment.

    Args:
        peer: One of `PEERS`.
        folder: Folder of the environments.

    Raises:
        ValueError: If the environment is not there.
    """
    if not PEERS[peer].requirements:
        return sys.executable
    python = pathlib.Path(folder or "", peer, "bin", "python")
    if folder is None or not python.is_file():
        raise ValueError(
            f"Expected an environment of {peer!r} in the folder of "
            f"environments. Received: {folder!r}. Run `python -m "
            "benchmarks.install_peers --environments=FOLDER` first"
        )
    return str(python)


def install(peers: Iterable[str], folder: str, python: str) -> None:
    """Makes an environment for each peer that needs one of its own.

    Args:
        peers: Some of `PEERS`.
        folder: Where they are made. What is there already is brought up to
            date.
        python: Interpreter that they are made with.
    """
    for peer in peers:
        if requirements := PEERS[peer].requirements:
            target = pathlib.Path(folder, peer)
            subprocess.run([python, "-m", "venv", str(target)], check=True)
            subprocess.run(
                [target / "bin" / "python", "-m", "pip", "install", "-q"]
                + list(requirements),
                check=True,
            )
