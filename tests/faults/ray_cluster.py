"""A Ray cluster of its own process, for builds that join it: `python -m tests.faults.ray_cluster FILE`."""

import sys
import threading
from pathlib import Path

import ray

if __name__ == "__main__":
    context = ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    place = Path(sys.argv[1])
    place.with_suffix(".part").write_text(context.address_info["gcs_address"])
    place.with_suffix(".part").rename(place)
    threading.Event().wait()
