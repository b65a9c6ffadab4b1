"""The public names, exactly, and that each says what it is."""

import inspect
import sys

import pytest

import fliqs_keras

PUBLIC_NAMES = {
    "ActivationBytes",
    "ActivationQuantizer",
    "BitOps",
    "BudgetTable",
    "Cost",
    "CostTerm",
    "ExportReport",
    "FLIQS_L",
    "FLIQS_L_FLOAT",
    "FLIQS_S",
    "FLIQS_S_FLOAT",
    "FixedFormats",
    "FloatFormat",
    "Format",
    "FormatAssignment",
    "FormatSearch",
    "IntFormat",
    "LatencyTable",
    "MacEnergy",
    "ModelSummary",
    "Reinforce",
    "SearchSpace",
    "Sensitivity",
    "Supernet",
    "SwitchableQuantizeConfig",
    "SwitchableQuantizer",
    "Target",
    "VerificationReport",
    "WeightBytes",
    "WeightQuantizer",
    "apply",
    "budget",
    "calibrate",
    "export_onnx",
    "export_ops",
    "export_tflite",
    "parse_format",
    "read_search_log",
    "recalibrate_batch_norm",
    "register_quantize_config",
    "round_to_format",
    "run_onnx",
    "run_tflite",
    "summary",
    "to_ai_edge_quantizer_recipe",
    "verify_export",
    "weighted",
    "write_html_report",
}

NAS_NAMES = {"Heads", "KernelSize", "Skip", "Width", "extract"}


def test_public_names_are_these():
    names = {
        name
        for name, value in vars(fliqs_keras).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert names == PUBLIC_NAMES


def test_names_of_nas_are_these():
    names = {n for n in vars(fliqs_keras.nas) if not n.startswith("_")}
    assert names == NAS_NAMES
    assert all(inspect.getdoc(getattr(fliqs_keras.nas, n)) for n in names)


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES))
def test_public_name_has_a_docstring(name):
    assert inspect.getdoc(getattr(fliqs_keras, name))


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
