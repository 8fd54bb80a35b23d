"""CondInst: instance segmentation with conditional convolutions, in plain PyTorch."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from condinst.compiled import CompileError
    from condinst.config import DetectConfig, ModelConfig
    from condinst.instances import Instances
    from condinst.model import CondInst
    from condinst.weights import load
    from condinst.weightsfile import WeightsError

__all__ = ["CompileError", "CondInst", "DetectConfig", "Instances", "ModelConfig", "WeightsError", "load"]

# Torch takes seconds to load, and who only reads tables or masks needs none of it: names load when asked for.
_HOMES = {
    "CompileError": "condinst.compiled",
    "CondInst": "condinst.model",
    "DetectConfig": "condinst.config",
    "Instances": "condinst.instances",
    "ModelConfig": "condinst.config",
    "WeightsError": "condinst.weightsfile",
    "load": "condinst.weights",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value
