"""Rounding of layer inputs in the runtime, on every format's hard cases."""

import sys

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from flatbuffers import flexbuffers

from fliqs_keras.export.flatbuffer import read_model, write_model
from fliqs_keras.export.patcher import patch
from fliqs_keras.export.specs import ActivationSpec, LayerSpec
from fliqs_keras.formats import parse_format

FORMATS = (
    "INT2 INT3 INT4 INT5 INT7 INT8 INT9 INT12 INT16 "
    "E1M1 E1M2 E2M0 E2M1 E2M2 E2M3 E3M0 E3M2 E3M4 E4M0 E4M3 E5M2 "
    "E4M7 E5M8 E6M9 E7M8 FP16 BF16"
).split()
RESOLVERS = {
    "default": OpResolverType.AUTO,
    "no_delegate": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
}


def file_of_one_marker(size, relu=False):
    """A file that gives its input, or the ReLU of it, through a marker."""
    codes = [
        schema.OperatorCodeT(
            customCode="FliqsQuantize",
            builtinCode=schema.BuiltinOperator.CUSTOM,
            deprecatedBuiltinCode=schema.BuiltinOperator.CUSTOM,
        ),
        schema.OperatorCodeT(
            builtinCode=schema.BuiltinOperator.RELU,
            deprecatedBuiltinCode=schema.BuiltinOperator.RELU,
        ),
    ]
    options = np.frombuffer(flexbuffers.Dumps({"path": "layer"}), np.uint8)
    marker = schema.OperatorT(
        opcodeIndex=0, inputs=[1], outputs=[2], customOptions=options
    )
    operators = [schema.OperatorT(opcodeIndex=1, inputs=[0], outputs=[1])]
    operators = [*operators, marker] if relu else [marker]
    subgraph = schema.SubGraphT(
        tensors=[schema.TensorT(shape=[size]) for _ in range(3)],
        inputs=[0 if relu else 1],
        outputs=[2],
        operators=operators,
    )
    model = schema.ModelT(
        version=3,
        operatorCodes=codes,
        subgraphs=[subgraph],
        buffers=[schema.BufferT()],
        metadata=[],
        signatureDefs=[],
    )
    return write_model(model)


def op_names(buffer):
    names = {v: k for k, v in vars(schema.BuiltinOperator).items()}
    model = read_model(buffer)
    codes = [names[code.builtinCode] for code in model.operatorCodes]
    return [codes[op.opcodeIndex] for op in model.subgraphs[0].operators]


def run(buffer, x, resolver=OpResolverType.AUTO):
    interpreter = Interpreter(
        model_content=buffer, experimental_op_resolver_type=resolver
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def hard_cases(format):
    """Codes, the values halfway between them, and their neighbors."""
    codes = format.codes()
    if codes.size > 2000:
        middle = codes.size // 2
        chosen = np.random.default_rng(0).integers(0, codes.size, 500)
        near_zero = np.arange(middle - 200, middle + 200)
        codes = codes[np.unique([*chosen, *near_zero, 0, codes.size - 1])]
    # Next to the ends of float32, runtimes flush and split inexactly.
    codes = codes[
        (np.abs(codes) < 1e30) & ((codes == 0) | (np.abs(codes) > 1e-30))
    ]
    halves = ((codes[1:].astype(np.float64) + codes[:-1]) / 2).astype("f4")
    above = np.nextafter(halves, np.float32(np.inf))
    below = np.nextafter(halves, np.float32(-np.inf))
    beyond = [1.3 * codes[-1], 1.3 * codes[0]]
    return np.concatenate([codes, halves, above, below, beyond]).astype("f4")


def round_to_grid(u, format):
    """The grid's formula in float64, half to even."""
    u = np.clip(u.astype(np.float64), -format.max_code, format.max_code)
    exponent = np.frexp(u)[1] - 1
    exponent = np.maximum(exponent, format.min_exponent)
    step = 2.0 ** (exponent - format.mantissa_bits)
    return (np.rint(u / step) * step).astype(np.float32)


@pytest.mark.parametrize("resolver", RESOLVERS)
@pytest.mark.parametrize("name", FORMATS)
def test_hard_cases_round_exactly(name, resolver):
    format = parse_format(name)
    # A power of two, so that dividing by it leaves the halves halfway.
    scale = 0.25 if format.scaled else 1.0
    codes = hard_cases(format)
    x = codes * np.float32(scale)
    spec = LayerSpec("layer", (), ActivationSpec(format, scale))
    buffer, _ = patch(file_of_one_marker(x.size), [spec])
    expected = round_to_grid(codes, format) * np.float32(scale)
    np.testing.assert_array_equal(run(buffer, x, RESOLVERS[resolver]), expected)


@pytest.mark.parametrize("resolver", RESOLVERS)
@pytest.mark.parametrize("name", ["E2M1", "E4M3", "FP16", "INT8"])
def test_scales_that_are_no_power_of_two(name, resolver):
    format, scale = parse_format(name), np.float32(0.0371)
    x = np.random.default_rng(0).normal(size=999).astype(np.float32)
    x *= 2 * scale * np.float32(min(format.max_code, 500.0))
    spec = LayerSpec("layer", (), ActivationSpec(format, float(scale)))
    buffer, _ = patch(file_of_one_marker(x.size), [spec])
    expected = round_to_grid(x / scale, format) * scale
    np.testing.assert_array_equal(run(buffer, x, RESOLVERS[resolver]), expected)


@pytest.mark.parametrize(
    "activation, relu, expected",
    [
        (None, False, []),
        (ActivationSpec(parse_format("FP32"), 1.0), False, []),
        (
            ActivationSpec(parse_format("INT8"), 0.5),
            False,
            ["MAXIMUM", "QUANTIZE", "DEQUANTIZE"],
        ),
        (
            ActivationSpec(parse_format("INT8"), 0.5),
            True,
            ["RELU", "QUANTIZE", "DEQUANTIZE"],
        ),
        (
            ActivationSpec(parse_format("INT4"), 0.5),
            True,
            ["RELU", "MINIMUM", "QUANTIZE", "DEQUANTIZE"],
        ),
        (ActivationSpec(parse_format("BF16"), 1.0), False, ["CAST", "CAST"]),
    ],
    ids=["none", "FP32", "INT8", "relu_INT8", "relu_INT4", "BF16"],
)
def test_no_needless_ops(activation, relu, expected):
    spec = LayerSpec("layer", (), activation)
    buffer, _ = patch(file_of_one_marker(5, relu), [spec])
    assert op_names(buffer) == expected
    x = np.array([-2, -0.0, 0.5, 1, 1.5], np.float32)
    np.testing.assert_array_equal(
        run(buffer, x), np.maximum(x, 0) if relu else x
    )


def test_native_floats_can_be_left_to_the_device():
    spec = LayerSpec("layer", (), ActivationSpec(parse_format("FP16"), 1.0))
    buffer, _ = patch(file_of_one_marker(1), [spec], simulate_floats=False)
    x = np.array([np.pi], np.float32)
    np.testing.assert_array_equal(run(buffer, x), x)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
