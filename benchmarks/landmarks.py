"""Measure images per second of the stage `landmarks`: one thread against all cores, JPEG decoding included.

    python benchmarks/landmarks.py IMAGES [--runs 3]

IMAGES is a folder of JPEGs. Both thread counts take turns in one process; the medians are compared.
"""

import argparse
import statistics
import time
from pathlib import Path

from handdata.machine import cores
from handdata.recipe import LandmarkOptions
from handdata.stages.landmarks import HandLandmarks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    images = [path.read_bytes() for path in sorted(given.images.rglob("*.jpg"))]
    columns = {
        "image": images,
        "gesture": ["ok"] * len(images),
        "bboxes": [[]] * len(images),
        "labels": [[]] * len(images),
    }
    stages = {count: HandLandmarks(LandmarkOptions(threads=count)) for count in (1, cores())}
    seconds: dict[int, list[float]] = {count: [] for count in stages}
    for stage in stages.values():
        stage({name: values[:4] for name, values in columns.items()})  # builds MediaPipe's graph
    for _ in range(given.runs):
        for count, stage in stages.items():
            start, cpu = time.perf_counter(), time.process_time()
            stage(columns)
            seconds[count].append(time.perf_counter() - start)
            print(f"{count} threads: {seconds[count][-1]:.2f} s, {time.process_time() - cpu:.2f} s of CPU", flush=True)
    for stage in stages.values():
        stage.close()
    medians = {count: statistics.median(values) for count, values in seconds.items()}
    rates = ", ".join(f"{count} threads {len(images) / value:.1f} images/s" for count, value in medians.items())
    print(f"{len(images)} images: {rates}, {medians[1] / medians[cores()]:.2f} times")


if __name__ == "__main__":
    main()
