import threading
from collections import Counter

import pytest
import torch

from handtrain.method.batches import ahead, batch_of, steps_of


def test_every_image_is_seen_once_an_epoch() -> None:
    chosen = [pair for step in range(steps_of(5, 4, 3)) for pair in batch_of(step, 5, 4, 3, 0, "unet")]
    assert Counter(chosen) == Counter((row, epoch) for row in range(5) for epoch in range(3))
    assert [epoch for _, epoch in chosen] == sorted(epoch for _, epoch in chosen)
    assert len(batch_of(3, 5, 4, 3, 0, "unet")) == 3  # 15 images are 4 + 4 + 4 + 3


@pytest.mark.parametrize(("device", "thread_is_ours"), [("cpu", True), ("cuda", False)])
def test_inputs_are_loaded_in_order_and_with_a_gpu_in_a_thread(device: str, thread_is_ours: bool) -> None:
    loaded: list[int] = []
    threads = set()

    def load(step: int) -> int:
        loaded.append(step)
        threads.add(threading.get_ident())
        return step * 10

    assert list(ahead(load, range(3, 6), torch.device(device))) == [(3, 30), (4, 40), (5, 50)]
    assert loaded == [3, 4, 5]
    assert (threads == {threading.get_ident()}) == thread_is_ours
    assert list(ahead(load, range(0), torch.device(device))) == []
