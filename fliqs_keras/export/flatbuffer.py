"""LiteRT files as objects of the schema's object API, and back."""

import struct

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

__all__ = ["read_model", "write_model"]

_IDENTIFIER = b"TFL3"
# The schema asks for it; the Python builder aligns to the element only.
_BUFFER_ALIGNMENT = 16
_MIN_VERSION = b"min_runtime_version"


class _SharingBuilder(flatbuffers.Builder):
    """Writes equal vectors of numbers once, as shapes and zero points are.

    The runtime asks for a zero point a channel, 8 bytes that are all zero.
    """

    def __init__(self):
        super().__init__(1024)
        self._offset_of = {}
        self._is_shareable = False

    def StartVector(self, elemSize, numElems, alignment):  # noqa: N802,N803
        self._before = self.Offset()
        self._alignment = alignment
        self._size = elemSize * numElems
        # Bytes may be constants, which are aligned otherwise.
        self._is_shareable = alignment > 1
        return super().StartVector(elemSize, numElems, alignment)

    def PrependUOffsetTRelative(self, off):  # noqa: N802
        # They count from where they stand, so equal ones are not the same.
        self._is_shareable = False
        super().PrependUOffsetTRelative(off)

    def EndVector(self, numElems=None):  # noqa: N802,N803
        end = super().EndVector(numElems)
        # Strings end here, too, without a start.
        is_shareable, self._is_shareable = self._is_shareable, False
        if not is_shareable:
            return end
        begin = len(self.Bytes) - end
        content = bytes(self.Bytes[begin : begin + 4 + self._size])
        first = self._offset_of.setdefault((self._alignment, content), end)
        if first != end:
            self.head = len(self.Bytes) - self._before
        return first


class _AlignedBuffer(schema.BufferT):
    def Pack(self, builder):  # noqa: N802
        if self.data is not None:
            builder.Prep(_BUFFER_ALIGNMENT, len(self.data))
        return super().Pack(builder)


def read_model(buffer: bytes) -> schema.ModelT:
    """Reads a LiteRT file into objects.

    Args:
        buffer: The content of the file.

    Returns:
        The model as an object of the schema's object API, with lists where a
        vector may be absent from the file.

    Raises:
        ValueError: If it is not a LiteRT file, or one of over 2 GB.
    """
    if len(buffer) < 8 or bytes(buffer[4:8]) != _IDENTIFIER:
        raise ValueError(
            "Expected the content of a LiteRT file, with the identifier "
            f"{_IDENTIFIER!r}. Received: {len(buffer)} bytes that begin with "
            f"{bytes(buffer[:8])!r}"
        )
    try:
        model = schema.ModelT.InitFromPackedBuf(bytearray(buffer))
    except (struct.error, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            "Expected the content of a LiteRT file. Received: "
            f"{len(buffer)} bytes that cannot be parsed ({error})"
        ) from error
    if any(b.offset > 1 for b in model.buffers or []) or model.externalBuffers:
        raise ValueError(
            "Expected a LiteRT file that holds its constants in itself. "
            "Received: a file with external constants, as used above 2 GB; "
            "export the model in parts"
        )
    _use_lists(model)
    if not _references_exist(model):
        raise ValueError(
            "Expected the content of a LiteRT file. Received: "
            f"{len(buffer)} bytes that refer to tensors, buffers or ops that "
            "they do not hold"
        )
    return model


def _use_lists(model: schema.ModelT) -> None:
    """Replaces absent vectors and read-only views by lists."""
    for name in ("operatorCodes", "subgraphs", "buffers", "metadata"):
        setattr(model, name, getattr(model, name) or [])
    model.signatureDefs = model.signatureDefs or []
    for signature in model.signatureDefs:
        signature.inputs = signature.inputs or []
        signature.outputs = signature.outputs or []
    for subgraph in model.subgraphs:
        subgraph.tensors = subgraph.tensors or []
        subgraph.operators = subgraph.operators or []
        for holder in (subgraph, *subgraph.operators):
            for name in ("inputs", "outputs"):
                indices = getattr(holder, name)
                as_list = [] if indices is None else [int(i) for i in indices]
                setattr(holder, name, as_list)


def _references_exist(model: schema.ModelT) -> bool:
    subgraphs = model.subgraphs
    if any(s.subgraphIndex >= len(subgraphs) for s in model.signatureDefs):
        return False
    for index, subgraph in enumerate(subgraphs):
        tensors = [end.tensorIndex for end in _signature_ends(model, index)]
        for holder in (subgraph, *subgraph.operators):
            tensors += [*holder.inputs, *holder.outputs]
        if not all(-1 <= i < len(subgraph.tensors) for i in tensors):
            return False
        if any(t.buffer >= len(model.buffers) for t in subgraph.tensors):
            return False
    ops = [op for subgraph in subgraphs for op in subgraph.operators]
    return all(op.opcodeIndex < len(model.operatorCodes) for op in ops)


def _signature_ends(
    model: schema.ModelT, subgraph_index: int
) -> list[schema.TensorMapT]:
    """The inputs and outputs of the signatures of a subgraph."""
    return [
        end
        for signature in model.signatureDefs
        if signature.subgraphIndex == subgraph_index
        for end in (*signature.inputs, *signature.outputs)
    ]


def write_model(model: schema.ModelT, *, strip_names: bool = False) -> bytes:
    """Writes a model, without what nothing refers to any more.

    Args:
        model: The model, as `read_model` returns it. It is changed.
        strip_names: Whether tensors lose their names, except the inputs and
            outputs of subgraphs. Signatures keep theirs.

    Returns:
        The content of the file.
    """
    for index, subgraph in enumerate(model.subgraphs):
        _drop_unused_tensors(subgraph, _signature_ends(model, index))
        if strip_names:
            _strip_names(subgraph)
    _drop_unused_op_codes(model)
    _merge_buffers(model)
    builder = _SharingBuilder()
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _strip_names(subgraph: schema.SubGraphT) -> None:
    kept = {*subgraph.inputs, *subgraph.outputs}
    for index, tensor in enumerate(subgraph.tensors):
        if index not in kept:
            tensor.name = None


def _drop_unused_tensors(
    subgraph: schema.SubGraphT, ends: list[schema.TensorMapT]
) -> None:
    used = {*subgraph.inputs, *subgraph.outputs, *(e.tensorIndex for e in ends)}
    for op in subgraph.operators:
        used.update(op.inputs, op.outputs, _intermediates(op))
    used = sorted(index for index in used if index >= 0)
    new_index = {old: new for new, old in enumerate(used)}

    def renumber(indices):
        return [new_index.get(int(index), -1) for index in indices]

    subgraph.tensors = [subgraph.tensors[index] for index in used]
    subgraph.inputs = renumber(subgraph.inputs)
    subgraph.outputs = renumber(subgraph.outputs)
    for end in ends:
        end.tensorIndex = new_index[end.tensorIndex]
    for op in subgraph.operators:
        op.inputs = renumber(op.inputs)
        op.outputs = renumber(op.outputs)
        if op.intermediates is not None:
            op.intermediates = renumber(op.intermediates)


def _intermediates(op: schema.OperatorT) -> list[int]:
    return (
        [] if op.intermediates is None else [int(i) for i in op.intermediates]
    )


def _drop_unused_op_codes(model: schema.ModelT) -> None:
    ops = [op for subgraph in model.subgraphs for op in subgraph.operators]
    used = sorted({op.opcodeIndex for op in ops})
    new_index = {old: new for new, old in enumerate(used)}
    model.operatorCodes = [model.operatorCodes[index] for index in used]
    for op in ops:
        op.opcodeIndex = new_index[op.opcodeIndex]


def _merge_buffers(model: schema.ModelT) -> None:
    """Keeps one buffer of each content, of those that are referred to."""
    # Computed for the ops that the converter wrote, so no longer true.
    model.metadata = [m for m in model.metadata if m.name != _MIN_VERSION]
    merged = [schema.BufferT()]
    index_of_content = {}

    def index_of(old_index):
        data = model.buffers[old_index].data
        if data is None:
            return 0
        content = bytes(data)
        if content not in index_of_content:
            index_of_content[content] = len(merged)
            data = np.frombuffer(content, np.uint8)
            merged.append(_AlignedBuffer(data=data))
        return index_of_content[content]

    tensors = [t for subgraph in model.subgraphs for t in subgraph.tensors]
    for holder in (*tensors, *model.metadata):
        holder.buffer = index_of(holder.buffer)
    model.buffers = merged
    model.metadataBuffer = None
