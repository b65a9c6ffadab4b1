"""Set-ups of the FLIQS paper, as defaults of the flags.

The networks, the spaces and the costs are those of the authors' plot data, on
ImageNet at 224 pixels, with the paper's controller. How the paper trained is
not known to us: batch sizes, optimizers, learning rates and numbers of epochs
are ours, what is usual for these networks. So are the layouts of the floats of
FLIQS-L other than E2M1 and E4M3.
"""

import dataclasses

import fliqs_keras
from recipes.paper_costs import PRINTED_GBOPS

_SPACES = {
    "fliqs_s": fliqs_keras.FLIQS_S_FLOAT,
    "fliqs_l_float": fliqs_keras.FLIQS_L_FLOAT,
    "fliqs_l_int": fliqs_keras.FLIQS_L,
}
# GBOPs of what the paper found.
_FOUND = {
    ("resnet18", "fliqs_s"): 30.80,
    ("resnet18", "fliqs_l_float"): 32.78,
    ("resnet18", "fliqs_l_int"): 33.54,
    ("resnet50", "fliqs_s"): 74.28,
    ("resnet50", "fliqs_l_float"): 76.43,
    ("resnet50", "fliqs_l_int"): 74.49,
    ("mobilenet_v2", "fliqs_s"): 7.35,
    ("mobilenet_v2", "fliqs_l_float"): 6.77,
    ("mobilenet_v2", "fliqs_l_int"): 7.21,
}
# Of networks whose costs in the paper we do not know: ours.
_FACTOR = 1.1


@dataclasses.dataclass(frozen=True)
class Preset:
    """Defaults of flags, by their names.

    Args:
        model: The network.
        formats: The formats of the space.
        target_factor: Target, as a multiple of the cost of all layers in the
            first of them: in the paper's set-ups what it found costs, so that
            other image sizes and numbers of classes have a like target.
        learning_rate: The highest.
        image_size: Height and width of the images.
        batch_size: Examples of a step.
        optimizer: Name of the optimizer.
        epochs: Number of epochs.
        dataset: The data.
        controller: What chooses the formats.
        is_paper: Whether the network, the space and the target are the
            paper's.
    """

    model: str
    formats: tuple[str, ...]
    target_factor: float
    learning_rate: float = 0.1
    image_size: int = 224
    batch_size: int = 256
    optimizer: str = "sgd"
    epochs: int = 90
    dataset: str = "imagenet2012"
    controller: str = "reinforce"
    is_paper: bool = True

    def flags(self) -> dict[str, object]:
        """Returns the defaults, by the names of the flags."""
        values = dataclasses.asdict(self)
        del values["is_paper"]
        return values | {"formats": list(self.formats)}


def _of_the_paper(model: str, space: str) -> Preset:
    uniform = float(PRINTED_GBOPS[model][0])
    return Preset(model, _formats(space), _FOUND[model, space] / uniform)


def _of_ours(model: str, **settings: object) -> Preset:
    return Preset(
        model, _formats("fliqs_s"), _FACTOR, is_paper=False, **settings
    )


def _formats(space: str) -> tuple[str, ...]:
    return tuple(f.name for f in _SPACES[space].formats)


PRESETS: dict[str, Preset] = {
    **{
        f"{model}_{space}": _of_the_paper(model, space)
        for model, space in _FOUND
    },
    "efficientnet_b0_fliqs_s": _of_ours("efficientnet_b0"),
    "inception_v3_fliqs_s": _of_ours("inception_v3", image_size=299),
    "deit_small_fliqs_s": _of_ours(
        "deit_small", optimizer="adamw", learning_rate=5e-4, epochs=300
    ),
}
