"""What the FLIQS paper prints of its networks: costs in uniform formats.

GBOPs of one 224 × 224 image of ImageNet at 4 bits (E2M1), at 8 bits (E4M3)
and in BF16, to the digits of the authors' plot data.
"""

PRINTED_GBOPS: dict[str, tuple[str, str, str]] = {
    "resnet18_0.5": ("7.78", "31.13", "124.5"),
    "resnet18": ("29.23", "116.9", "467.7"),
    "resnet18_2.0": ("113.1", "452.5", "1810"),
    "resnet50": ("65.43", "261.7", "1047"),
    "mobilenet_v2_0.5": ("1.55", "6.21", "24.87"),
    "mobilenet_v2": ("4.81", "19.25", "77.0"),
    "mobilenet_v2_1.4": ("9.31", "37.2", "149"),
}
