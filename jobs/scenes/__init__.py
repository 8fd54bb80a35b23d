"""Generated field scenes with exact instance truth: for the demo model, the demo, tests and benchmarks."""

from jobs.scenes.dataset import write_dataset, write_mosaic
from jobs.scenes.scene import CATEGORIES, Scene, SceneObject, render

__all__ = ["CATEGORIES", "Scene", "SceneObject", "render", "write_dataset", "write_mosaic"]
