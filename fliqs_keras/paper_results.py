"""What the FLIQS paper reports, to draw behind results of the same model.

ImageNet top-1 accuracy in percent at the GBOPs of one 224 x 224 image, from
the plot data that the authors published.
"""

PAPER_RESULTS: dict[str, dict[str, tuple[float, float]]] = {
    "resnet18": {
        "BF16": (467.7, 71.17),
        "E4M3": (116.9, 70.56),
        "E2M1": (29.23, 67.96),
        "FLIQS-S": (30.8, 68.89),
        "FLIQS-L float": (32.78, 70.01),
        "FLIQS-L integer": (33.54, 69.83),
    },
    "resnet50": {
        "BF16": (1047.0, 77.68),
        "E4M3": (261.7, 77.42),
        "E2M1": (65.43, 75.77),
        "FLIQS-S": (74.28, 76.84),
        "FLIQS-L float": (76.43, 76.95),
        "FLIQS-L integer": (74.49, 76.79),
    },
    "mobilenet_v2": {
        "BF16": (77.0, 73.13),
        "E4M3": (19.25, 72.63),
        "E2M1": (4.81, 66.29),
        "FLIQS-S": (7.35, 71.14),
        "FLIQS-L float": (6.77, 71.97),
        "FLIQS-L integer": (7.21, 71.87),
    },
}
