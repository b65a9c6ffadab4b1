"""Which sizes of which layers can be switched, and by which decisions."""

import collections
from collections.abc import Sequence
from typing import NamedTuple

import keras

from fliqs_keras import _keras
from fliqs_keras.architecture import (
    Heads,
    KernelSize,
    SizeChoice,
    Skip,
    Width,
)
from fliqs_keras.channel_graph import (
    CONVOLUTIONS,
    DEPTHWISE_CONVOLUTIONS,
    TRANSPOSED_CONVOLUTIONS,
    ChannelGraph,
    Channels,
    Layout,
)
from fliqs_keras.model_layers import Place
from fliqs_keras.residual_blocks import ResidualBlock, find_residual_block
from fliqs_keras.selectors import selects_any
from fliqs_keras.size_masks import (
    BRANCH,
    CALL,
    INPUT,
    OUTPUT,
    WEIGHT,
    SizeMask,
)

Masks = dict[int, list[SizeMask]]

_KERNEL_LAYERS = (*CONVOLUTIONS, *DEPTHWISE_CONVOLUTIONS)


class _Sizes(NamedTuple):
    """A decision about a size, and what there is to choose from."""

    decision: str
    options: tuple[int, ...]

    def mask(
        self,
        ranks: Sequence[int],
        subject: str,
        axes: Sequence[int] = (),
        acts: bool = True,
    ) -> SizeMask:
        return SizeMask(
            self.options,
            ranks,
            subject,
            axes,
            acts=acts,
            decision=self.decision,
            name=f"{self.decision.rpartition(':')[-1]}_of_{subject}",
        )


def plan_sizes(
    model: keras.Model,
    choices: Sequence[SizeChoice],
    places: Sequence[Place],
    quantized: Sequence[keras.Layer],
) -> Masks:
    """Returns the masks of the layers whose sizes can be switched.

    Args:
        model: A float model.
        choices: What sizes there are to choose from.
        places: Where the layers of the model stand.
        quantized: The layers that will be quantized.

    Raises:
        ValueError: If a choice selects no layer that it could be about, or
            one whose size cannot be changed.
    """
    if not choices:
        return {}
    for place in places:
        if _keras.has_graph(place.layer):
            raise ValueError(
                "Expected a model without models in it, to choose sizes of. "
                f"Received: model {model.name!r}, with {place.path!r} in it. "
                "Call the layers of that on the tensors of the outer one"
            )
    planner = _Planner(model, places, {id(layer) for layer in quantized})
    if not _keras.is_made_of_layers(model):
        raise ValueError(
            "Expected a model that can be built anew from smaller layers, to "
            f"choose sizes of. Received: model {model.name!r} of class "
            f"{type(model).__name__}, which has a constructor of its own. "
            "Call `keras.Model(model.inputs, model.outputs)`, and pass that"
        )
    for choice in choices:
        planner.plan(choice)
    planner.mask_channels()
    return dict(planner.masks)


class _Planner:
    def __init__(
        self,
        model: keras.Model,
        places: Sequence[Place],
        quantized: set[int],
    ):
        self.graph = ChannelGraph(model, quantized)
        self.places = places
        self.paths = {id(place.layer): place.path for place in places}
        self.quantized = quantized
        self.masks: Masks = collections.defaultdict(list)
        self.widths: dict[int, tuple[Channels, _Sizes]] = {}
        self.decided: set[str] = set()

    def plan(self, choice: SizeChoice) -> None:
        plan, kinds = {
            Width: (self._plan_width, None),
            KernelSize: (self._plan_kernel, _KERNEL_LAYERS),
            Heads: (self._plan_heads, (keras.layers.MultiHeadAttention,)),
            Skip: (self._plan_skip, (keras.layers.Add,)),
        }[type(choice)]
        chosen = [
            place
            for place in self.places
            if selects_any(choice.layers, place.lineage)
            and (
                self._makes_channels(place.layer)
                if kinds is None
                else type(place.layer) in kinds
                # Not within a layer, whose own config makes them anew.
                and id(place.layer) in self.graph.makes
            )
        ]
        if not chosen:
            names = [
                k.__name__ for k in kinds or (*CONVOLUTIONS, keras.layers.Dense)
            ]
            raise ValueError(
                f"Expected {choice} to select at least one of {names} in the "
                f"graph of the model. Received: none of "
                f"{[place.path for place in self.places]}"
            )
        for place in chosen:
            plan(choice, place)

    def _makes_channels(self, layer: keras.Layer) -> bool:
        made = self.graph.makes.get(id(layer))
        return made is not None and layer in made.parts[0].root.makers

    def _sizes(self, choice: SizeChoice, place: Place, built: int) -> _Sizes:
        return _Sizes(place.path + choice.suffix, choice.sizes(built))

    def _new_sizes(
        self, choice: SizeChoice, place: Place, built: int
    ) -> _Sizes:
        """Returns the sizes of a decision of one layer alone."""
        sizes = self._sizes(choice, place, built)
        if sizes.decision in self.decided:
            raise ValueError(
                f"Expected each layer in one {type(choice).__name__} at most. "
                f"Received: {place.path!r} in two, one of them {choice}"
            )
        self.decided.add(sizes.decision)
        return sizes

    def _plan_width(self, choice: Width, place: Place) -> None:
        channels = self.graph.makes[id(place.layer)].parts[0].root
        if channels.fixed is not None:
            raise ValueError(
                "Expected layers whose number of channels can be changed. "
                f"Received: {choice}, which selects {place.path!r}, whose "
                f"channels cannot, because {channels.fixed}"
            )
        sizes = self._sizes(choice, place, channels.size)
        _, known = self.widths.setdefault(id(channels), (channels, sizes))
        if known.options != sizes.options:
            raise ValueError(
                "Expected layers that must agree on their number of channels "
                f"to have the same options. Received: {known.options} of "
                f"{known.decision!r} and {sizes.options} of "
                f"{sizes.decision!r}"
            )

    def _plan_kernel(self, choice: KernelSize, place: Place) -> None:
        layer = place.layer
        self._require_quantized(layer)
        (built, *others) = set(layer.kernel_size)
        is_odd = built % 2 == 1 and not others
        is_kept = max(layer.strides) <= min(choice.options)
        if not is_odd or layer.padding != "same" or not is_kept:
            raise ValueError(
                "Expected layers with a kernel of one odd size along all axes, "
                'padding="same" and strides of at most the smallest option, '
                "whose outputs keep their shape. Received: "
                f"{choice}, which selects {place.path!r} with "
                f"kernel_size={layer.kernel_size}, padding={layer.padding!r} "
                f"and strides={layer.strides}"
            )
        sizes = self._new_sizes(choice, place, built)
        ranks = [abs(2 * i + 1 - built) for i in range(built)]
        axes = range(len(layer.kernel_size))
        self.masks[id(layer)].append(sizes.mask(ranks, WEIGHT, axes))

    def _plan_heads(self, choice: Heads, place: Place) -> None:
        attention = place.layer
        if attention.get_config().get("use_gate"):
            raise ValueError(
                "Expected attention without gates. Received: "
                f"{choice}, which selects {place.path!r} with use_gate=True"
            )
        sizes = self._new_sizes(choice, place, attention.num_heads)
        ranks = range(attention.num_heads)
        for layer in (
            attention.query_dense,
            attention.key_dense,
            attention.value_dense,
        ):
            self._require_quantized(layer)
            # Of the shape (inputs, heads, size of a head).
            mask = sizes.mask(ranks, WEIGHT, [1], acts=False)
            self.masks[id(layer)].append(mask)
        output = attention.output_dense
        self._require_quantized(output)
        self.masks[id(output)] += [
            sizes.mask(ranks, WEIGHT, [0]),
            sizes.mask(ranks, INPUT, [-2]),
        ]

    def _plan_skip(self, choice: Skip, place: Place) -> None:
        block = find_residual_block(
            self.graph.calls, self.graph.returned, place.layer
        )
        if not isinstance(block, ResidualBlock):
            raise ValueError(
                "Expected `Add` layers that end a residual block. Received: "
                f"{choice}, which selects {place.path!r}, {block}"
            )
        # Activations alone cost nothing.
        shared = [x for x in self._quantized_in(block.shared) if x.weights]
        if shared:
            raise ValueError(
                "Expected residual blocks with quantized layers of their own, "
                "whose cost they alone decide. Received: "
                f"{choice}, which selects {place.path!r}, whose branch shares "
                f"{[self.paths[id(layer)] for layer in shared]}. Build each "
                "block of layers of its own"
            )
        sizes = self._new_sizes(choice, place, 1)
        mask = sizes.mask([0], BRANCH, [block.branch])
        self.masks[id(place.layer)].append(mask)
        for layer in self._quantized_in(block.layers):
            self.masks[id(layer)].append(sizes.mask([0], CALL))

    def _quantized_in(self, layers: Sequence[keras.Layer]) -> list[keras.Layer]:
        """Returns the layers that will be quantized, of some and in them."""
        wanted = {id(layer) for layer in layers}
        return [
            place.layer
            for place in self.places
            if id(place.layer) in self.quantized
            and wanted & {id(layer) for layer in place.lineage.values()}
        ]

    def mask_channels(self) -> None:
        """Masks the channels of all layers that make or read them."""
        for place in self.places:
            layer = place.layer
            read = self.graph.reads.get(id(layer))
            made = self.graph.makes.get(id(layer))
            if read is None or made is None:
                continue
            kind = type(layer)
            if self._makes_channels(layer):
                out_axis, in_axis = (
                    (-2, -1) if kind in TRANSPOSED_CONVOLUTIONS else (-1, -2)
                )
                self._mask(layer, read, WEIGHT, in_axis)
                self._mask(layer, made, WEIGHT, out_axis, acts=False)
            elif kind in DEPTHWISE_CONVOLUTIONS:
                self._mask(layer, read, WEIGHT, -2, acts=False)
            if id(layer) in self.quantized:
                self._mask(layer, read, INPUT, -1)
                self._mask(layer, made, OUTPUT, -1)

    def _mask(
        self,
        layer: keras.Layer,
        layout: Layout,
        subject: str,
        axis: int,
        acts: bool = True,
    ) -> None:
        for number, part in enumerate(layout.parts):
            _, sizes = self.widths.get(id(part.root), (None, None))
            if sizes is None:
                continue
            self._require_quantized(layer)
            ranks = [
                rank if position == number else -1
                for position, other in enumerate(layout.parts)
                for rank in range(other.size)
            ]
            self.masks[id(layer)].append(
                sizes.mask(ranks * layout.repeats, subject, [axis], acts)
            )

    def _require_quantized(self, layer: keras.Layer) -> None:
        if id(layer) in self.quantized:
            return
        raise ValueError(
            "Expected layers whose size can be changed, and those that read "
            "their outputs, to be in the search space. Received: layer "
            f"{self.paths.get(id(layer), layer.name)!r}, which is left out. "
            'Give it the format "FP32", which leaves its values as they are'
        )
