"""What compiling costs and saves: the sentence, and the measurement with a compiler that counts."""

from typing import Any

import pytest
import torch

from handdata.errors import UserError
from handtrain import compiling
from handtrain.compiling import PASSES, Comparison, compared, compiled

CPU = torch.device("cpu")


def test_the_sentence_says_whether_it_pays() -> None:
    faster, slower = Comparison(30.0, 0.120, 0.100), Comparison(30.0, 0.100, 0.101)
    start = "compiling for Stage III took 30.0 s; a pass takes 100.0 ms in place of 120.0"
    assert faster.text("Stage III", 2000) == f"{start}: it pays, the 2,000 passes save 40.0 s"
    reason = "it does not pay here, the 1,000 passes save 20.0 s; it would from 1,501 passes on"
    assert faster.text("Stage III", 1000) == f"{start}: {reason}"
    assert slower.text("Stage II", 10**6).endswith("a pass takes 101.0 ms in place of 100.0: it does not pay, use "
                                                   "--compile no")  # fmt: skip


def test_eager_passes_come_first_and_the_compilers_time_is_the_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []

    def compiler(module: torch.fx.GraphModule, _: Any) -> Any:
        clock[0] += 30  # seconds

        def run(*inputs: torch.Tensor) -> Any:
            clock[0] += 2
            calls.append("compiled")
            return module(*inputs)

        return run

    monkeypatch.setattr(compiling.time, "perf_counter", lambda: clock[0])
    torch._dynamo.reset()
    network = torch.compile(torch.nn.Linear(2, 2), backend=compiler, dynamic=False)

    def one_pass() -> None:
        clock[0] += 3  # what is never compiled
        before = len(calls)
        network(torch.ones(1, 2))
        if len(calls) == before:
            clock[0] += 5
            calls.append("eager")

    assert compared(one_pass, CPU) == Comparison(cost=30.0, eager=8.0, compiled=5.0)
    assert calls == ["eager"] * PASSES + ["compiled"] * PASSES


def test_a_network_without_repeated_blocks_is_refused() -> None:
    from diffusers import AutoencoderKL

    network: Any = AutoencoderKL
    with pytest.raises(UserError, match="--compile blocks: AutoencoderKL names no repeated blocks; use --compile yes"):
        compiled(network(), "blocks")
