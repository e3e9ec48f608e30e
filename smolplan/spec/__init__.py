"""The run spec: what every part of smolplan reads."""

from smolplan.spec.data import PYTHON_STDLIB, DataSpec, SourceSpec, StageSpec
from smolplan.spec.load import dump_spec, load_preset, load_spec, parse_spec, preset_names
from smolplan.spec.model import ModelSpec
from smolplan.spec.optim import OptimSpec
from smolplan.spec.run import RunSpec

__all__ = [
    "PYTHON_STDLIB",
    "DataSpec",
    "ModelSpec",
    "OptimSpec",
    "RunSpec",
    "SourceSpec",
    "StageSpec",
    "dump_spec",
    "load_preset",
    "load_spec",
    "parse_spec",
    "preset_names",
]
