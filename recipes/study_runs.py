"""The runs of the study: its spaces, its budgets and who is compared."""

import dataclasses
from collections.abc import Iterator, Sequence

SPACES = {
    "wide": ("INT2", "INT3", "INT4", "INT5", "INT6", "INT7", "INT8"),
    "fliqs_s": ("INT4", "INT8"),
    "fliqs_l": ("E2M1", "E2M2", "E3M2", "E3M3", "E4M3"),
}
# As multiples of what a uniform format costs, each between two of them.
BUDGETS = {
    "wide": (("INT2", 1.6), ("INT3", 1.4)),
    "fliqs_s": (("INT4", 1.2), ("INT4", 1.8)),
    "fliqs_l": (("E2M1", 1.2), ("E2M1", 1.8)),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One training, or the few trainings of one method.

    Attributes:
        network: Name of the network.
        space: Name of the search space.
        method: One of `METHODS` or `ABLATIONS`.
        seed: Seed of the weights, of the order of the data and of samples.
        budget: Format and factor of the target; for `"uniform"` the format
            and one.
        start: `"scratch"`, or `"float"` for the weights of a network that
            was trained in float before.
    """

    network: str
    space: str
    method: str
    seed: int
    budget: tuple[str, float]
    start: str = "scratch"


def list_runs(
    networks: Sequence[str],
    spaces: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    uniform_formats: Sequence[str] = (*SPACES["wide"], *SPACES["fliqs_l"]),
    start: str = "scratch",
) -> Iterator[Run]:
    """Yields the runs of a study, those that share a model side by side.

    The uniform formats of the narrow space are among those of the wide one
    and are not run twice.
    """
    for network in networks:
        for space in spaces:
            for seed in seeds:
                for method in methods:
                    budgets = BUDGETS[space]
                    if method == "uniform":
                        if space == "fliqs_s":
                            continue
                        budgets = [
                            (name, 1.0)
                            for name in SPACES[space]
                            if name in uniform_formats
                        ]
                    for budget in budgets:
                        yield Run(network, space, method, seed, budget, start)
