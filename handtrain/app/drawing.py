"""A request to draw a prompt."""

from dataclasses import dataclass

# of the choices of a pose: one of the gesture in the prompt, by the seed, and none; of the gestures in a prompt
OWN_POSE, NO_POSE, FREE = "the gesture's own", "left open", "none"


@dataclass
class Drawing:
    """The prompt, and how it is drawn."""

    prompt: str
    seed: int = 0
    steps: int = 20
    guidance: float = 3.0
    mu: float = 1.0  # share of the plain text embedding in the trained model
    pose: str = OWN_POSE  # one of `Models.poses`
    photograph: str | None = None  # path of a photograph whose hand gives the pose, instead of `pose`
    pose_guidance: float = 2.0
