"""Which layers make, pass and read the same channels, from a model's graph."""

from collections.abc import Container, Iterable, Sequence
from typing import NamedTuple

import keras

from fliqs_keras import _keras

CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
)
TRANSPOSED_CONVOLUTIONS = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
DEPTHWISE_CONVOLUTIONS = (
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)
_MAKERS = (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS, keras.layers.Dense)
# Every output channel of these is made of the input channel of its number.
_PASSING = (
    *DEPTHWISE_CONVOLUTIONS,
    keras.layers.Activation,
    keras.layers.ActivityRegularization,
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.AveragePooling3D,
    keras.layers.BatchNormalization,
    keras.layers.Cropping1D,
    keras.layers.Cropping2D,
    keras.layers.Cropping3D,
    keras.layers.Dropout,
    keras.layers.ELU,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalAveragePooling3D,
    keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.GlobalMaxPooling3D,
    keras.layers.Identity,
    keras.layers.LeakyReLU,
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.MaxPooling3D,
    keras.layers.PReLU,
    keras.layers.ReLU,
    keras.layers.Rescaling,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.UpSampling1D,
    keras.layers.UpSampling2D,
    keras.layers.UpSampling3D,
    keras.layers.ZeroPadding1D,
    keras.layers.ZeroPadding2D,
    keras.layers.ZeroPadding3D,
)
_MERGING = (
    keras.layers.Add,
    keras.layers.Average,
    keras.layers.Maximum,
    keras.layers.Minimum,
    keras.layers.Multiply,
    keras.layers.Subtract,
)
# Of one's own activations no one knows.
_ELEMENTWISE_ACTIVATIONS = {
    None,
    *(
        getattr(keras.activations, name)
        for name in (
            "celu",
            "elu",
            "exponential",
            "gelu",
            "hard_shrink",
            "hard_sigmoid",
            "hard_silu",
            "hard_tanh",
            "leaky_relu",
            "linear",
            "log_sigmoid",
            "mish",
            "relu",
            "relu6",
            "selu",
            "sigmoid",
            "silu",
            "soft_shrink",
            "softplus",
            "softsign",
            "sparse_plus",
            "sparse_sigmoid",
            "squareplus",
            "tanh",
            "tanh_shrink",
            "threshold",
        )
    ),
}


def class_of(layer: keras.Operation) -> type:
    """Returns the class that a layer has in the float model."""
    return getattr(type(layer), "float_class", type(layer))


class Channels:
    """Channels that are there together: made by layers that must agree.

    Attributes:
        size: How many there are.
        makers: The layers that make them.
        fixed: Why their number cannot be changed, or `None`.
    """

    def __init__(self, size: int | None, makers: Iterable[keras.Layer] = ()):
        self.size = size
        self.makers = list(makers)
        self.fixed: str | None = None
        self._joined: Channels | None = None

    @property
    def root(self) -> "Channels":
        """What stands for all that were joined with these."""
        return self if self._joined is None else self._joined.root

    def join(self, other: "Channels") -> None:
        """Has two kinds of channels agree from now on."""
        one, two = self.root, other.root
        if one is two:
            return
        two._joined = one
        one.makers += [x for x in two.makers if x not in one.makers]
        one.fixed = one.fixed or two.fixed


class Layout(NamedTuple):
    """What the last axis of a tensor holds.

    Attributes:
        parts: The channels that stand one behind the other.
        repeats: How often all of them are repeated, as by `Flatten`.
    """

    parts: tuple[Channels, ...]
    repeats: int = 1

    @property
    def size(self) -> int | None:
        """Length of the axis."""
        sizes = [part.size for part in self.parts]
        return None if None in sizes else sum(sizes) * self.repeats

    def fix(self, reason: str) -> None:
        """Says why no number of channels here can be changed."""
        for part in self.parts:
            part.root.fixed = part.root.fixed or reason


class ChannelGraph:
    """The channels of a functional or sequential model.

    Args:
        model: The model.
        quantized: The `id`s of layers that will be quantized.

    Attributes:
        calls: The calls of its graph, in order.
        returned: Numbers of the tensors that it returns.
        reads: Layout of the first input of each layer, by its `id`: at its
            first call, if it is called with several.
        makes: Layout of the first output of each layer, likewise.

    Raises:
        ValueError: If the model has no graph.
    """

    def __init__(self, model: keras.Model, quantized: Container[int] = ()):
        graph = _keras.graph_calls(model)
        if graph is None:
            raise ValueError(
                "Expected a functional or sequential model, whose graph shows "
                "which layers read the same channels. Received: model "
                f"{model.name!r} ({type(model).__name__})"
            )
        self.calls, self.returned = graph
        self._quantized = quantized
        self.reads: dict[int, Layout] = {}
        self.makes: dict[int, Layout] = {}
        self._layouts: dict[int, Layout] = {}
        for number, tensor in enumerate(model.inputs):
            layout = _new_layout(tensor.shape)
            layout.fix("they are inputs of the model")
            self._layouts[number] = layout
        for call in self.calls:
            self._read(call)
        for number in self.returned:
            self._layouts[number].fix("they are outputs of the model")

    def _read(self, call: _keras.GraphCall) -> None:
        layer = call.operation
        inputs = [self._layouts[number] for number in call.inputs]
        made = self._made(layer, inputs, call.shapes[0])
        for number, shape in zip(
            call.outputs[1:], call.shapes[1:], strict=True
        ):
            self._layouts[number] = _new_layout(shape)
            self._layouts[number].fix(_mixes(layer))
        pairs = [[self.makes.setdefault(id(layer), made), made]]
        if inputs:
            before = self.reads.setdefault(id(layer), inputs[0])
            pairs.append([before, inputs[0]])
        if self._has_one_size(layer):
            for pair in pairs:
                _agree(pair, _differs(layer))
        self._layouts[call.outputs[0]] = made

    def _has_one_size(self, layer: keras.Operation) -> bool:
        """Whether a layer reads and makes the same at each of its calls."""
        return bool(
            getattr(layer, "weights", ())
            or isinstance(layer, keras.layers.Reshape)
            or id(layer) in self._quantized
        )

    def _made(
        self,
        layer: keras.Operation,
        inputs: Sequence[Layout],
        shape: tuple[int | None, ...],
    ) -> Layout:
        kind = class_of(layer)
        is_last = getattr(layer, "data_format", None) != "channels_first"
        if kind in _MAKERS and is_last:
            return _make(layer, inputs[0], shape)
        if kind in _PASSING and is_last and _keeps_apart(layer):
            return inputs[0]
        if kind in _MERGING and len({x.size for x in inputs}) == 1:
            _agree(inputs, _mixes(layer))
            return inputs[0]
        if kind is keras.layers.Multiply:
            return _scale(layer, inputs, shape)
        if kind is keras.layers.Concatenate and (
            layer.axis in (-1, len(shape) - 1)
            and all(layout.repeats == 1 for layout in inputs)
        ):
            return Layout(tuple(p for x in inputs for p in x.parts))
        if kind is keras.layers.Flatten and is_last:
            return _repeat(inputs[0], shape)
        if kind is keras.layers.Reshape and shape[-1] == inputs[0].size:
            return inputs[0]
        for layout in inputs:
            layout.fix(_mixes(layer))
        made = _new_layout(shape)
        made.fix(_mixes(layer))
        return made


def _make(
    layer: keras.Layer, read: Layout, shape: tuple[int | None, ...]
) -> Layout:
    made = Layout((Channels(shape[-1], [layer]),))
    if getattr(layer, "groups", 1) > 1:
        read.fix(_mixes(layer))
        made.fix(_mixes(layer))
    if layer.activation not in _ELEMENTWISE_ACTIVATIONS:
        made.fix(_mixes(layer))
    return made


def _keeps_apart(layer: keras.Layer) -> bool:
    """Whether a layer that may pass channels on does."""
    if isinstance(layer, keras.layers.BatchNormalization):
        axes = layer.axis if isinstance(layer.axis, list) else [layer.axis]
        return list(axes) in ([-1], [layer.input_spec.ndim - 1])
    if isinstance(layer, keras.layers.Rescaling):
        numbers = layer.scale, layer.offset
        return not any(hasattr(number, "__len__") for number in numbers)
    return (
        getattr(layer, "depth_multiplier", 1) == 1
        and getattr(layer, "activation", None) in _ELEMENTWISE_ACTIVATIONS
    )


def _scale(
    layer: keras.Layer, inputs: Sequence[Layout], shape: tuple[int | None, ...]
) -> Layout:
    """Of factors with one channel, which scale all those of the others."""
    wide = [layout for layout in inputs if layout.size == shape[-1]]
    for layout in inputs:
        if layout not in wide:
            layout.fix(_mixes(layer))
    _agree(wide, _mixes(layer))
    return wide[0]


def _repeat(read: Layout, shape: tuple[int | None, ...]) -> Layout:
    if shape[-1] is None or not read.size:
        read.fix("they are flattened together with an axis of unknown size")
        return _new_layout(shape)
    return Layout(read.parts, read.repeats * (shape[-1] // read.size))


def _new_layout(shape: tuple[int | None, ...]) -> Layout:
    return Layout((Channels(shape[-1] if len(shape) > 1 else None),))


def _agree(layouts: Sequence[Layout], reason: str) -> None:
    """Has layouts be the same, part by part; says why where they differ."""
    first, *others = layouts
    forms = {(x.repeats, tuple(p.size for p in x.parts)) for x in layouts}
    if len(forms) > 1:
        for layout in layouts:
            layout.fix(reason)
        return
    for other in others:
        for a, b in zip(first.parts, other.parts, strict=True):
            a.join(b)


def _differs(layer: keras.Operation) -> str:
    return (
        f"layer {layer.name!r} ({class_of(layer).__name__}) is called on "
        "different ones"
    )


def _mixes(layer: keras.Operation) -> str:
    return (
        f"layer {layer.name!r} ({class_of(layer).__name__}) does not treat "
        "each of them alone"
    )
