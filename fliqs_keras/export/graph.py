"""One subgraph of a LiteRT model, to be read and rewritten."""

import collections
import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from fliqs_keras.export.op_versions import op_version

__all__ = ["Graph", "Quantization"]

_TYPES = {k: v for k, v in vars(schema.TensorType).items() if k.isupper()}
_TYPE_NAMES = {v: k for k, v in _TYPES.items()}
_OPS = {k: v for k, v in vars(schema.BuiltinOperator).items() if k.isupper()}
_OP_NAMES = {v: k for k, v in _OPS.items()}

_OPTIONS = {
    "ABS": "AbsOptions",
    "ADD": "AddOptions",
    "CAST": "CastOptions",
    "DEQUANTIZE": "DequantizeOptions",
    "DIV": "DivOptions",
    "GATHER": "GatherOptions",
    "LESS": "LessOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "MUL": "MulOptions",
    "QUANTIZE": "QuantizeOptions",
    "SELECT_V2": "SelectV2Options",
    "SUB": "SubOptions",
}


class Quantization(NamedTuple):
    """Scales of a tensor: a single one, or one for each index of `axis`."""

    scale: np.ndarray | Sequence[float]
    zero_point: int = 0
    axis: int = 0


class Graph:
    """One subgraph of a model, with what is needed to read and rewrite it.

    Tensors are referred to by their index, ops by their object.

    Args:
        model: The model, as `read_model` returns it.
        subgraph: The subgraph, one of `model.subgraphs`.

    Attributes:
        clipped: The outputs of ops that clip to what a quantizer can hold.
    """

    def __init__(self, model: schema.ModelT, subgraph: schema.SubGraphT):
        self._model = model
        self._subgraph = subgraph
        self._constants = {}
        self.clipped: set[int] = set()

    @property
    def ops(self) -> list[schema.OperatorT]:
        """The ops in the order in which they run."""
        return list(self._subgraph.operators)

    def kind(self, op: schema.OperatorT) -> str:
        """Name of an op, such as `"CONV_2D"`; a custom op's own name."""
        code = self._model.operatorCodes[op.opcodeIndex]
        # Files older than the 128th builtin op only have the first field.
        builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
        if builtin == _OPS["CUSTOM"]:
            return (code.customCode or b"").decode(errors="replace")
        return _OP_NAMES.get(builtin, f"op {builtin}")

    def is_custom(self, op: schema.OperatorT) -> bool:
        """Whether an op is none of the runtime's own."""
        code = self._model.operatorCodes[op.opcodeIndex]
        return code.customCode is not None

    def type_name(self, tensor: int) -> str:
        """Type of a tensor, such as `"FLOAT32"`."""
        code = self._subgraph.tensors[tensor].type
        return _TYPE_NAMES.get(code, f"type {code}")

    def name(self, tensor: int) -> bytes | None:
        """Name of a tensor, if it has one."""
        return self._subgraph.tensors[tensor].name

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Shape of a tensor, where open sizes count as one."""
        shape = self._subgraph.tensors[tensor].shape
        return () if shape is None else tuple(int(size) for size in shape)

    def quantization(self, tensor: int) -> Quantization | None:
        """Scales of a tensor, if it holds codes."""
        record = self._subgraph.tensors[tensor].quantization
        if record is None or record.scale is None or not len(record.scale):
            return None
        return Quantization(
            np.asarray(record.scale, np.float32),
            int(record.zeroPoint[0]),
            record.quantizedDimension,
        )

    def is_constant(self, tensor: int) -> bool:
        """Whether the file holds the values of a tensor."""
        data = self._model.buffers[self._subgraph.tensors[tensor].buffer].data
        return data is not None and len(data) > 0

    @property
    def inputs(self) -> list[int]:
        """The inputs of the subgraph."""
        return list(self._subgraph.inputs)

    @property
    def outputs(self) -> list[int]:
        """The outputs of the subgraph."""
        return list(self._subgraph.outputs)

    def retype_input(
        self, old: int, type_name: str, quantization: Quantization
    ) -> int:
        """Makes a tensor of another type an input, under the name of one."""
        new = self._add_like(old, type_name, quantization)
        self._replace_end("inputs", old, new)
        return new

    def replace_output(self, old: int, new: int) -> None:
        """Makes another tensor an output, under the name of the old one."""
        self._replace_end("outputs", old, new)

    def _replace_end(self, side: str, old: int, new: int) -> None:
        tensors = self._subgraph.tensors
        tensors[new].name = tensors[old].name
        ends = getattr(self._subgraph, side)
        setattr(self._subgraph, side, [new if t == old else t for t in ends])
        for signature in self._model.signatureDefs:
            if self._model.subgraphs[signature.subgraphIndex] is self._subgraph:
                for end in getattr(signature, side):
                    if end.tensorIndex == old:
                        end.tensorIndex = new

    def is_output(self, tensor: int) -> bool:
        """Whether a tensor is an output of the subgraph."""
        return tensor in self._subgraph.outputs

    def codes_behind(self, tensor: int) -> int | None:
        """The tensor of integer codes that another is decoded from."""
        op = self.producers().get(tensor)
        if op is None or self.kind(op) != "DEQUANTIZE":
            return None
        codes = op.inputs[0]
        return None if self.quantization(codes) is None else codes

    def float_constant(self, tensor: int) -> np.ndarray | None:
        """Values of a float32 constant; `None` for every other tensor."""
        if tensor < 0 or self.type_name(tensor) != "FLOAT32":
            return None
        record = self._subgraph.tensors[tensor]
        data = self._model.buffers[record.buffer].data
        if data is None or len(data) == 0:
            return None
        shape = () if record.shape is None else tuple(map(int, record.shape))
        if len(data) != 4 * math.prod(shape):
            return None
        return np.frombuffer(bytes(data), "<f4").reshape(shape)

    def consumers(self) -> dict[int, list[schema.OperatorT]]:
        """The ops that read each tensor."""
        readers = collections.defaultdict(list)
        for op in self._subgraph.operators:
            for tensor in dict.fromkeys(op.inputs):
                readers[tensor].append(op)
        return readers

    def producers(self) -> dict[int, schema.OperatorT]:
        """The op that writes each tensor."""
        return {t: op for op in self._subgraph.operators for t in op.outputs}

    def add_constant(
        self,
        data: np.ndarray,
        type_name: str = "FLOAT32",
        *,
        shape: tuple[int, ...] | None = None,
        quantization: Quantization | None = None,
        name: bytes | None = None,
    ) -> int:
        """Adds a constant, or returns an equal one that was added before.

        Args:
            data: The values as the file holds them, packed bytes included.
            type_name: Type of the tensor.
            shape: Shape of the tensor, where it is not that of `data`.
            quantization: Scales of the tensor.
            name: Name of the tensor.

        Returns:
            The index of the tensor.
        """
        shape = tuple(np.shape(data) if shape is None else shape)
        content = np.ascontiguousarray(data).tobytes()
        key = (type_name, shape, content, _as_key(quantization))
        if key not in self._constants:
            self._model.buffers.append(
                schema.BufferT(data=np.frombuffer(content, np.uint8))
            )
            self._constants[key] = self._add_tensor(
                type_name,
                shape,
                quantization,
                buffer=len(self._model.buffers) - 1,
                name=name,
            )
        return self._constants[key]

    def insert(
        self,
        before: schema.OperatorT | None,
        kind: str,
        inputs: list[int],
        *,
        like: int,
        type_name: str = "FLOAT32",
        quantization: Quantization | None = None,
    ) -> schema.OperatorT:
        """Inserts an op of one output, which is a new tensor.

        Args:
            before: The op in front of which it runs; `None` for the end.
            kind: Name of the op.
            inputs: The tensors that it reads.
            like: The tensor whose shape its output has.
            type_name: Type of the output.
            quantization: Scales of the output.

        Returns:
            The op.
        """
        output = self._add_like(like, type_name, quantization)
        options = getattr(schema, f"{_OPTIONS[kind]}T")()
        if kind == "CAST":
            options.inDataType = _TYPES[self.type_name(inputs[0])]
            options.outDataType = _TYPES[type_name]
        op = schema.OperatorT(
            opcodeIndex=self._op_code(
                kind, self._version(kind, inputs, output)
            ),
            inputs=list(inputs),
            outputs=[output],
            builtinOptionsType=getattr(schema.BuiltinOptions, _OPTIONS[kind]),
            builtinOptions=options,
        )
        operators = self._subgraph.operators
        end = len(operators)
        operators.insert(operators.index(before) if before else end, op)
        return op

    def retype_output(
        self,
        op: schema.OperatorT,
        type_name: str,
        quantization: Quantization | None = None,
    ) -> None:
        """Gives an op an output of another type, which nothing reads yet.

        Args:
            op: The op, of one output.
            type_name: Type of the new output.
            quantization: Its scales.
        """
        (old,) = op.outputs
        name = self.name(old)
        op.outputs = [self._add_like(old, type_name, quantization, name=name)]
        code = self._model.operatorCodes[op.opcodeIndex]
        kind = self.kind(op)
        needed = self._version(kind, op.inputs, op.outputs[0])
        op.opcodeIndex = self._op_code(kind, max(needed, code.version))

    def next_op(self, op: schema.OperatorT) -> schema.OperatorT | None:
        """The op that runs after another; `None` after the last."""
        operators = self._subgraph.operators
        position = operators.index(op) + 1
        return operators[position] if position < len(operators) else None

    def remove(self, op: schema.OperatorT) -> None:
        """Removes an op, whose outputs nothing may read any more."""
        self._subgraph.operators.remove(op)

    def remove_unread(self) -> None:
        """Removes the ops that nothing reads the outputs of."""
        outputs = set(self._subgraph.outputs)
        for op in reversed(self.ops):
            readers = self.consumers()
            if not any(t in outputs or readers[t] for t in op.outputs):
                self.remove(op)

    def become(self, op: schema.OperatorT, kind: str, options: object) -> None:
        """Turns an op into one of another kind.

        Args:
            op: The op.
            kind: Name of the kind.
            options: Its options, an object of the schema.
        """
        name = type(options).__name__.removesuffix("T")
        op.opcodeIndex = self._op_code(kind, 1)
        op.builtinOptionsType = getattr(schema.BuiltinOptions, name)
        op.builtinOptions = options

    def reshape_constant(self, tensor: int, shape: tuple[int, ...]) -> int:
        """Adds a tensor of another shape that holds a constant's values."""
        record = copy.copy(self._subgraph.tensors[tensor])
        record.shape = list(shape)
        self._subgraph.tensors.append(record)
        return len(self._subgraph.tensors) - 1

    def redirect(self, old: int, new: int) -> None:
        """Has all readers of one tensor read another."""

        def replace(indices):
            return [new if tensor == old else tensor for tensor in indices]

        for reader in self._subgraph.operators:
            reader.inputs = replace(reader.inputs)
        self._subgraph.outputs = replace(self._subgraph.outputs)
        for signature in self._model.signatureDefs:
            if self._model.subgraphs[signature.subgraphIndex] is self._subgraph:
                for end in signature.outputs:
                    end.tensorIndex = replace([end.tensorIndex])[0]

    def _add_like(
        self,
        like: int,
        type_name: str,
        quantization: Quantization | None,
        **fields,
    ) -> int:
        """Adds a tensor of the shape of another."""
        record = self._subgraph.tensors[like]
        fields["shapeSignature"] = record.shapeSignature
        return self._add_tensor(type_name, record.shape, quantization, **fields)

    def _add_tensor(
        self,
        type_name: str,
        shape: Sequence[int] | None,
        quantization: Quantization | None,
        **fields,
    ) -> int:
        scales = None
        if quantization is not None:
            scale = np.asarray(quantization.scale, np.float32).reshape(-1)
            scales = schema.QuantizationParametersT(
                scale=scale,
                # A vector shorter than the scales is refused by the runtime.
                zeroPoint=np.full(
                    scale.size, quantization.zero_point, np.int64
                ),
                quantizedDimension=quantization.axis,
            )
        shape = None if shape is None else [int(size) for size in shape]
        tensor = schema.TensorT(
            shape=shape, type=_TYPES[type_name], quantization=scales, **fields
        )
        self._subgraph.tensors.append(tensor)
        return len(self._subgraph.tensors) - 1

    def _version(self, kind: str, inputs: list[int], output: int) -> int:
        types = [self.type_name(t) for t in (*inputs, output) if t >= 0]
        return op_version(kind, types, len(self.shape(output)))

    def _op_code(self, kind: str, version: int) -> int:
        code = _OPS[kind]
        for index, known in enumerate(self._model.operatorCodes):
            builtin = max(known.builtinCode, known.deprecatedBuiltinCode)
            if (builtin, known.version) == (code, version):
                return index
        self._model.operatorCodes.append(
            schema.OperatorCodeT(
                builtinCode=code,
                # The first field has 8 bits; 127 says to read the other.
                deprecatedBuiltinCode=min(code, 127),
                version=version,
            )
        )
        return len(self._model.operatorCodes) - 1


def _as_key(quantization: Quantization | None) -> tuple | None:
    if quantization is None:
        return None
    scale = np.asarray(quantization.scale, np.float32)
    return scale.tobytes(), quantization.zero_point, quantization.axis
