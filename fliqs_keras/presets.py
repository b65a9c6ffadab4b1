"""The search spaces of FLIQS, by name.

The spaces of integers are those of the authors' open code. Those of floats
are read off the paper's costs, which tell widths: E2M1 and E4M3 are named
there, the layouts of the other widths are chosen here.
"""

from fliqs_keras.search_space import SearchSpace

__all__ = ["FLIQS_L", "FLIQS_L_FLOAT", "FLIQS_S", "FLIQS_S_FLOAT"]

FLIQS_S = SearchSpace(["INT4", "INT8"])
FLIQS_L = SearchSpace(["INT4", "INT5", "INT6", "INT7", "INT8"])
FLIQS_S_FLOAT = SearchSpace(["E2M1", "E4M3"])
FLIQS_L_FLOAT = SearchSpace(["E2M1", "E2M2", "E3M2", "E3M3", "E4M3"])
