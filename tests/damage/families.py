"""The families of tries by name, and their share of all tries."""

from tests.damage import files

FAMILIES = {
    "build": files.BUILD,
    "dataset": files.DATASET,
    "paused run": files.PAUSED,
    "run": files.RUN,
    "model": files.MODEL,
    "generated images": files.IMAGES,
    "cache": files.CACHE,
    "base": files.BASE,
}
SHARES = {"build": 8, "dataset": 3, "paused run": 2, "run": 2, "model": 2, "generated images": 1, "cache": 1, "base": 2}
