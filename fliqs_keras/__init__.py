"""Searches the number format of every layer of a Keras model in one fit."""

__version__ = "0.1.0"

from fliqs_keras.formats import FloatFormat as FloatFormat
from fliqs_keras.formats import Format as Format
from fliqs_keras.formats import IntFormat as IntFormat
from fliqs_keras.formats import parse_format as parse_format
from fliqs_keras.rounding import round_to_format as round_to_format
from fliqs_keras.quantizers import SwitchableQuantizer as SwitchableQuantizer
from fliqs_keras.following_quantizers import (
    ActivationQuantizer as ActivationQuantizer,
)
from fliqs_keras.following_quantizers import WeightQuantizer as WeightQuantizer
from fliqs_keras.quantize_configs import (
    SwitchableQuantizeConfig as SwitchableQuantizeConfig,
)
from fliqs_keras.quantize_registry import (
    register_quantize_config as register_quantize_config,
)
from fliqs_keras.search_space import SearchSpace as SearchSpace
from fliqs_keras import nas as nas
from fliqs_keras.presets import FLIQS_L as FLIQS_L
from fliqs_keras.presets import FLIQS_L_FLOAT as FLIQS_L_FLOAT
from fliqs_keras.presets import FLIQS_S as FLIQS_S
from fliqs_keras.presets import FLIQS_S_FLOAT as FLIQS_S_FLOAT
from fliqs_keras.quantize import apply as apply
from fliqs_keras.assignments import FormatAssignment as FormatAssignment
from fliqs_keras.costs import BitOps as BitOps
from fliqs_keras.costs import Cost as Cost
from fliqs_keras.costs import CostTerm as CostTerm
from fliqs_keras.costs import weighted as weighted
from fliqs_keras.energy_costs import MacEnergy as MacEnergy
from fliqs_keras.byte_costs import WeightBytes as WeightBytes
from fliqs_keras.activation_costs import ActivationBytes as ActivationBytes
from fliqs_keras.reports import ModelSummary as ModelSummary
from fliqs_keras.reports import summary as summary
from fliqs_keras.budgets import BudgetTable as BudgetTable
from fliqs_keras.budgets import budget as budget
from fliqs_keras.calibration import calibrate as calibrate
from fliqs_keras.batch_norm import (
    recalibrate_batch_norm as recalibrate_batch_norm,
)
from fliqs_keras.reinforce import Reinforce as Reinforce
from fliqs_keras.sensitivity import Sensitivity as Sensitivity
from fliqs_keras.supernet import Supernet as Supernet
from fliqs_keras.search_logs import read_search_log as read_search_log
from fliqs_keras.callbacks import FixedFormats as FixedFormats
from fliqs_keras.callbacks import FormatSearch as FormatSearch
from fliqs_keras.export.running import run_tflite as run_tflite
from fliqs_keras.export.onnx.running import run_onnx as run_onnx
from fliqs_keras.export.verification import (
    VerificationReport as VerificationReport,
)
from fliqs_keras.export.verification import verify_export as verify_export
from fliqs_keras.export.report import ExportReport as ExportReport
from fliqs_keras.export.tflite import export_tflite as export_tflite
from fliqs_keras.export.onnx.exporter import export_onnx as export_onnx
from fliqs_keras.export.ai_edge_quantizer_recipe import (
    to_ai_edge_quantizer_recipe as to_ai_edge_quantizer_recipe,
)
from fliqs_keras import plots as plots
from fliqs_keras.html_reports import write_html_report as write_html_report
from fliqs_keras.op_files import export_ops as export_ops
from fliqs_keras.latency_costs import LatencyTable as LatencyTable
from fliqs_keras.hardware_targets import Target as Target
