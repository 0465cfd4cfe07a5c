"""Stop a training in the middle of Stage III."""

from typing import Any

import pytest

from handtrain.training import loop


def killed_at_the_fourth_step(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the next training end before its fourth step, and no later one; return a list with an entry for each step."""
    step, steps = loop.tuning_step, list[int]()

    def killed(*arguments: Any) -> Any:
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(loop, "tuning_step", killed)
    return steps
