"""The flags that say which peers, for what installs and what times them."""

from absl import flags

from benchmarks import peer_environments

ENVIRONMENTS = flags.DEFINE_string(
    "environments", None, "Folder of the environments of the peers."
)
PEERS = flags.DEFINE_list("peers", list(peer_environments.PEERS), "The peers.")
flags.register_validator(
    "peers",
    lambda peers: set(peers) <= set(peer_environments.PEERS),
    f"Expected some of {', '.join(peer_environments.PEERS)}.",
)
