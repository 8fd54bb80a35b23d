"""CondInst: instance segmentation with conditional convolutions, in plain PyTorch."""

from condinst.config import DetectConfig, ModelConfig
from condinst.model import CondInst, Instances
from condinst.weights import WeightsError, load

__all__ = ["CondInst", "DetectConfig", "Instances", "ModelConfig", "WeightsError", "load"]
