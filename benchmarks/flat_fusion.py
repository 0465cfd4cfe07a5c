"""One pass of the flat fusion layer at full size (3,500,851,200 weights), and the memory it takes beyond its input.

    python benchmarks/flat_fusion.py [--prompts 32]

Prints one JSON object.
"""

import argparse
import json
import resource
import time

import torch

from handtrain.method.fusion import FlatFusion

LIMIT_MIB = 512


def main() -> None:
    """Measure and print; fail if the pass takes more than 512 MiB."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--prompts", type=int, default=32, help="number of prompts in the call")
    flags = arguments.parse_args()
    torch.randn(64, 64) @ torch.randn(64, 64)  # allocates the libraries' own memory before the measurement
    layer, text, feature = FlatFusion(0, 77, 768, 63), torch.randn(flags.prompts, 77, 768), torch.rand(63)
    before = _peak_mib()
    wall, cpu = time.perf_counter(), time.process_time()
    fused = layer(text, feature)
    figures = {
        "prompts": flags.prompts,
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "extra_mib": round(_peak_mib() - before),  # its output included
        "output_mib": round(fused.nbytes / 2**20),
        "first_block_sha256": layer.first_block_sha256(),
    }
    print(json.dumps(figures, indent=1))
    assert torch.isfinite(fused).all()
    assert figures["extra_mib"] <= LIMIT_MIB, figures


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    main()
