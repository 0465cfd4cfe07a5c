"""Fine-tune Stable Diffusion on images of a hand gesture, generate images and evaluate them: see docs/python.md."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handtrain.evaluation.evaluate import evaluate
    from handtrain.generation.generate import generate
    from handtrain.judging.judge import judge
    from handtrain.model.pipeline import Hand1000Pipeline
    from handtrain.model.xl_pipeline import Hand1000XLPipeline
    from handtrain.reporting.report import report
    from handtrain.training.train import train

__all__ = ["Hand1000Pipeline", "Hand1000XLPipeline", "evaluate", "generate", "judge", "report", "train"]

_MODULES = {
    "Hand1000Pipeline": "model.pipeline",
    "Hand1000XLPipeline": "model.xl_pipeline",
    "evaluate": "evaluation.evaluate",
    "generate": "generation.generate",
    "judge": "judging.judge",
    "report": "reporting.report",
    "train": "training.train",
}


def __getattr__(name: str) -> Any:  # imports on first use: torch and diffusers take seconds
    if name not in _MODULES:
        raise AttributeError(f"module 'handtrain' has no attribute '{name}'")
    return getattr(importlib.import_module(f"handtrain.{_MODULES[name]}"), name)
