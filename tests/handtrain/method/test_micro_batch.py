import pytest
import torch

from handtrain.method.diffusion import Latents
from handtrain.method.micro_batch import MicroBatch, is_out_of_memory, parts


def test_parts_cover_the_batch_once() -> None:
    assert parts(5, 2) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert parts(5, 0) == [slice(0, 5)]
    assert len(Latents(torch.zeros(5, 4, 2, 2), torch.zeros(5, 4, 2, 2))[parts(5, 2)[2]]) == 1


def test_out_of_memory_is_raised_without_auto_and_at_one_image() -> None:
    full = torch.OutOfMemoryError("CUDA out of memory")
    for micro_batch in (MicroBatch(0), MicroBatch(4), MicroBatch("auto")):
        with pytest.raises(torch.OutOfMemoryError):
            for _ in range(4):  # auto: 3, 2, 1 images, then the error
                micro_batch.halve(full, 5)
    assert micro_batch.size == 1
    with pytest.raises(ValueError, match="another error"):
        MicroBatch("auto").halve(ValueError("another error"), 5)
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
