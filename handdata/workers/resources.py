"""The share of a machine or of a Ray cluster that each worker of a stage gets."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from handdata.errors import UserError
from handdata.machine import all_cores
from handdata.recipe import StageResources

Node = dict[str, float]  # resources of a machine in a Ray cluster: CPU, GPU, memory in bytes


@dataclass(frozen=True)
class Demand:
    """Resources that a stage can use, by its class and options."""

    stage: str  # its name, also that of its table in [resources]
    threads: bool = False  # its worker uses several cores
    gpu: bool = False  # its model runs on a GPU


@dataclass(frozen=True)
class Share:
    """Resources of each worker of a stage."""

    workers: int = 1
    cpus: int = 1
    gpus: float = 0.0
    memory: float = 0.0  # bytes that a Ray cluster reserves, 0: none


def local_share(demand: Demand, options: StageResources, workers: int, gpus: Sequence[str]) -> Share:
    """Return the share of each worker process on this machine, whose GPUs these are.

    Raises `UserError` if a worker needs more GPUs than the machine has.
    """
    count = _gpus(demand, options)
    if gpus and count > len(gpus):
        raise UserError(
            f"[resources.{demand.stage}] gpus = {count:g}, but this machine has {len(gpus)}: lower it, or leave it out"
        )
    return Share(workers, options.cpus or max(1, all_cores() // workers), count, options.memory * 1e9)


def gpus_of_worker(share: Share, number: int, gpus: Sequence[str]) -> tuple[str, ...]:
    """Return the GPUs of one worker: workers take the machine's GPUs in turn, `ceil(share.gpus)` each."""
    each = min(ceil(share.gpus), len(gpus))
    return tuple(gpus[(number * each + place) % len(gpus)] for place in range(each))


def cluster_share(demand: Demand, options: StageResources, workers: int, nodes: Sequence[Node]) -> Share:
    """Return the share of each worker on a Ray cluster: as many cores as let all workers run at the same time.

    Raises `UserError` if no machine of the cluster has room for one worker: Ray would wait for such a machine forever.
    """
    least = Share(workers, options.cpus or 1, _gpus(demand, options), options.memory * 1e9)
    if not any(_places(node, least) for node in nodes):
        needs = [f"{least.cpus} CPU"] + ([f"{least.gpus:g} GPU"] if least.gpus else [])
        needs += [f"{options.memory:g} GB of memory"] if least.memory else []
        raise UserError(
            f"no machine of the Ray cluster has {', '.join(needs)} for a worker of '{demand.stage}': add one, or lower"
            f" [resources.{demand.stage}]"
        )
    if options.cpus or not demand.threads:
        return least
    most = int(max(node.get("CPU", 0) for node in nodes))
    shares = (Share(workers, cpus, least.gpus, least.memory) for cpus in range(most, 1, -1))
    return next((share for share in shares if sum(_places(node, share) for node in nodes) >= workers), least)


def _gpus(demand: Demand, options: StageResources) -> float:
    """Return the number of GPUs of a worker. Raises `UserError` for a model on a GPU whose workers get none."""
    if demand.gpu and options.gpus == 0:
        raise UserError(
            f"[resources.{demand.stage}] gpus = 0, but the stage's model runs on a GPU: leave gpus out, or set its"
            " device to cpu"
        )
    return options.gpus if options.gpus >= 0 else float(demand.gpu)


def _places(node: Node, share: Share) -> int:
    """Return the number of workers for which a machine has room."""
    wanted = {"CPU": share.cpus, "GPU": share.gpus, "memory": share.memory}
    return min(int(node.get(name, 0.0) / amount) for name, amount in wanted.items() if amount)
