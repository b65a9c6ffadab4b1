"""Which layers `apply` quantizes, and which of them decide together."""

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import keras

from fliqs_keras import _keras
from fliqs_keras.formats import Format
from fliqs_keras.model_layers import Place, SwitchableConfigs
from fliqs_keras.quantize_configs import INPUT, SwitchableQuantizeConfig
from fliqs_keras.quantize_registry import find_quantize_config


class LayerPlan(NamedTuple):
    """A layer to quantize.

    Attributes:
        layer: The layer.
        config: Its config, with the formats and the names of its decisions.
    """

    layer: keras.layers.Layer
    config: SwitchableQuantizeConfig


@dataclasses.dataclass
class _Draft:
    """A layer before the names of its decisions are settled.

    Attributes:
        place: Where it stands.
        config: Its config, without formats.
        formats: Formats of its weights.
        activations: Those of its activations: `None` if they are tied to the
            weights, none if they stay in float.
        decision: Name of the decision of its weights.
        input: Name of what decides its input.
    """

    place: Place
    config: SwitchableQuantizeConfig
    formats: tuple[Format, ...]
    activations: tuple[Format, ...] | None
    decision: str
    input: str

    def plan(self) -> LayerPlan:
        config = self.config.for_decision(self.formats, self.decision)
        if self.activations:
            config = config.for_input_decision(
                self.activations, self.input + INPUT
            )
        elif self.activations is not None:
            config = config.with_float_activations()
        return LayerPlan(self.place.layer, config)


def plan_layers(
    model: keras.Model,
    space: Any,
    own: SwitchableConfigs,
    places: Iterable[Place],
) -> list[LayerPlan]:
    """Returns the layers of a float model to quantize, with their configs.

    Args:
        model: The model.
        space: The `SearchSpace`.
        own: Configs that go before those of the registry.
        places: Where the layers of the model stand.

    Raises:
        ValueError: If there is nothing to quantize, if a selector selects
            nothing, or if layers that decide together differ in formats.
    """
    candidates = []
    for place in places:
        config = find_quantize_config(place.layer, own, place.path)
        if config is not None:
            candidates.append((place, config))
    if not candidates:
        raise ValueError(
            "Expected a model with at least one layer to quantize, such as a "
            f"Dense or Conv2D. Received: model {model.name!r} with layers "
            f"{[type(layer).__name__ for layer in model.layers]}. Tell how a "
            "layer of your own is quantized by "
            "`fliqs_keras.register_quantize_config`"
        )
    space.check_selectors([place.lineage for place, _ in candidates])
    drafts = []
    for place, config in candidates:
        formats = space.formats_of(place.lineage)
        if formats:
            name = space.group_of(place.lineage) or place.path
            activations = space.activation_formats_of(place.lineage)
            drafts.append(
                _Draft(place, config, formats, activations, name, name)
            )
    if not drafts:
        raise ValueError(
            "Expected a search space that leaves some layer to quantize. "
            f"Received: {space}, which leaves out all of "
            f"{[place.path for place, _ in candidates]}"
        )
    if space.shared_inputs:
        _join_readers(model, drafts)
    _check_formats(drafts)
    return [draft.plan() for draft in drafts]


def _join_readers(model: keras.Model, drafts: Sequence[_Draft]) -> None:
    """Has layers that read one tensor decide on it together."""
    graph = _keras.graph_calls(model)
    if graph is None:
        raise ValueError(
            "Expected a functional or sequential model, whose graph shows "
            "which layers read one tensor, for `shared_inputs`. Received: "
            f"model {model.name!r} ({type(model).__name__}). Name the layers "
            "that are to agree in `SearchSpace(groups=...)`"
        )
    by_layer = {id(draft.place.layer): draft for draft in drafts}
    readers = collections.defaultdict(list)
    for call in graph[0]:
        draft = by_layer.get(id(call.operation))
        if draft is not None and _reads_quantized(draft):
            readers[call.inputs[0]].append(draft)
    joined = _join_names(
        list(dict.fromkeys(draft.input for draft in drafts)),
        [[draft.input for draft in together] for together in readers.values()],
    )
    for draft in drafts:
        draft.input = joined[draft.input]
        if draft.activations is None:
            draft.decision = joined[draft.decision]


def _reads_quantized(draft: _Draft) -> bool:
    config = draft.config
    return (
        config.quantize_input
        and config.activation_format is None
        and draft.activations != ()
    )


def _join_names(
    names: Sequence[str], together: Iterable[Sequence[str]]
) -> dict[str, str]:
    """Returns the joined name of each name, given those that belong together.

    Belonging together is passed on: two sets that share a name become one.
    """
    members = {name: {name} for name in names}
    for group in together:
        union = set().union(*(members[name] for name in group))
        members.update(dict.fromkeys(union, union))
    return {
        name: "+".join(sorted(members[name], key=names.index)) for name in names
    }


def _check_formats(drafts: Sequence[_Draft]) -> None:
    first: dict[str, tuple[tuple[Format, ...], str]] = {}
    for draft in drafts:
        path = draft.place.path
        pairs = [(draft.decision, draft.formats)]
        if draft.activations:
            pairs.append((draft.input + INPUT, draft.activations))
        for name, formats in pairs:
            known, other = first.setdefault(name, (formats, path))
            if formats != known:
                raise ValueError(
                    "Expected layers of one decision to have the same "
                    f"formats. Received: decision {name!r}, with "
                    f"{[f.name for f in known]} for layer {other!r} and "
                    f"{[f.name for f in formats]} for layer {path!r}. Give "
                    "them the same, or take one out of the group"
                )
