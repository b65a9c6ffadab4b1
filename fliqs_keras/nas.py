"""Searching the architecture together with the formats (FLIQNAS)."""

from fliqs_keras.architecture import Heads as Heads
from fliqs_keras.architecture import KernelSize as KernelSize
from fliqs_keras.architecture import Skip as Skip
from fliqs_keras.architecture import Width as Width
from fliqs_keras.extraction import extract as extract
