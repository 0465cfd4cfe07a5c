"""Fine-tune Stable Diffusion on 1,000 images of a hand gesture, generate and evaluate."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handtrain.model.pipeline import Hand1000Pipeline

__all__ = ["Hand1000Pipeline"]


def __getattr__(name: str) -> Any:  # diffusers is heavy: only who asks for the pipeline waits for it
    if name == "Hand1000Pipeline":
        from handtrain.model.pipeline import Hand1000Pipeline

        return Hand1000Pipeline
    raise AttributeError(f"module 'handtrain' has no attribute '{name}'")
