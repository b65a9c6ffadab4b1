"""Bit operations of the paper's networks, to the digits that it prints."""

import functools
import sys

import pytest

import fliqs_keras
from recipes import paper_models

pytestmark = pytest.mark.slow

BUILDERS = {
    "resnet18": paper_models.resnet18,
    "mobilenet_v2": paper_models.mobilenet_v2,
}
# GBOPs of one 224 x 224 image at 4 bits, at 8 bits and in BF16.
UNIFORM = {
    ("resnet18", 0.5): ("7.78", "31.13", "124.5"),
    ("resnet18", 1.0): ("29.23", "116.9", "467.7"),
    ("resnet18", 2.0): ("113.1", "452.5", "1810"),
    ("mobilenet_v2", 0.5): ("1.55", "6.21", "24.87"),
    ("mobilenet_v2", 1.0): ("4.81", "19.25", "77.0"),
    ("mobilenet_v2", 1.4): ("9.31", "37.2", "149"),
}
FORMATS = ("E2M1", "E4M3", "BF16")
# Printed a unit of the last digit lower than rounded, as if cut off.
CUT_OFF = {
    ("mobilenet_v2", 0.5, "E4M3"),
    ("mobilenet_v2", 1.4, "E2M1"),
    ("mobilenet_v2", 1.4, "E4M3"),
}


@functools.lru_cache(maxsize=None)
def cost_table(name, width):
    """Returns the GBOPs of each format of each layer."""
    model = fliqs_keras.apply(BUILDERS[name](width), FORMATS)
    layers = fliqs_keras.FormatAssignment.from_model(model)
    rows = fliqs_keras.BitOps().table(model)
    return {
        layer: dict(zip(FORMATS, row, strict=True))
        for layer, row in zip(layers, rows, strict=True)
    }


def as_printed(cost, printed):
    decimals = len(printed.partition(".")[2])
    # The largest are printed to four digits.
    return f"{cost:.{decimals}f}" if decimals else f"{float(f'{cost:.4g}'):.0f}"


@pytest.mark.parametrize(
    "name, width, number_format, printed",
    [
        pytest.param(*key, f, printed, id=f"{key[0]}-{key[1]}-{f}")
        for key, costs in UNIFORM.items()
        for f, printed in zip(FORMATS, costs, strict=True)
    ],
)
def test_uniform_formats(name, width, number_format, printed):
    table = cost_table(name, width)
    cost = sum(row[number_format] for row in table.values())
    if (name, width, number_format) in CUT_OFF:
        assert f"{cost:.4f}".startswith(printed)
    else:
        assert as_printed(cost, printed) == printed


@pytest.mark.parametrize(
    "width, wider, printed",
    [(1.0, {"head"}, "30.80"), (1.25, {"head", "stem"}, "54.60")],
    ids=["width_1", "width_1.25"],
)
def test_formats_that_the_paper_found(width, wider, printed):
    table = cost_table("resnet18", width)
    projections = {layer for layer in table if layer.endswith("projection")}
    assert len(projections) == 4
    cost = sum(
        row["E4M3" if layer in wider | projections else "E2M1"]
        for layer, row in table.items()
    )
    assert as_printed(cost, printed) == printed


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
