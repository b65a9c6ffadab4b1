"""The search spaces of the study, and its budgets."""

SPACES = {
    "wide": ("INT2", "INT3", "INT4", "INT5", "INT6", "INT7", "INT8"),
    "fliqs_s": ("INT4", "INT8"),
    "fliqs_l": ("E2M1", "E2M2", "E3M2", "E3M3", "E4M3"),
}
# As multiples of what a uniform format costs, each between two of them.
BUDGETS = {
    "wide": (("INT2", 1.6), ("INT3", 1.4)),
    "fliqs_s": (("INT4", 1.2), ("INT4", 1.8)),
    "fliqs_l": (("E2M1", 1.2), ("E2M1", 1.8)),
}
