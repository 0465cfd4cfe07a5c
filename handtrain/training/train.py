"""Drive a training run; killed at any moment, the same call continues to the same end."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from handdata import assets
from handdata.errors import Unfinished, UserError
from handdata.files import require_writable_folder
from handdata.huggingface import HubName, Place
from handdata.machine import choose_device
from handtrain.data.dataset import Photographs, load, readme, splits_of
from handtrain.method.fusion import TokenFusion
from handtrain.method.gesture import NUMBERS, GestureFeature, found_again, gesture_feature
from handtrain.method.lora import add_adapters, merge_adapters
from handtrain.method.micro_batch import is_out_of_memory
from handtrain.model.base import Base, open_base
from handtrain.model.export import export, fusion_record
from handtrain.presets import RunOptions, TrainOptions, check, check_running
from handtrain.run import checkpoint
from handtrain.run import device as compute
from handtrain.run.cost import needs, plan, require_disk
from handtrain.run.flops import known_peak, work_of_folder
from handtrain.run.folder import RunFolder, open_run
from handtrain.run.processes import Processes, joined, launched, own_device
from handtrain.tensor_cache import TensorCache
from handtrain.training.early_stopping import Judge, check_judging, training_angles
from handtrain.training.loop import Training, logged_lines, write_stage1
from handtrain.training.training_set import materials
from handtrain.training.validation import Observer


@dataclass(frozen=True)
class Job:
    """What the command line of `handtrain train` says."""

    dataset: Place
    gesture: str
    base: Place
    out: Path
    options: TrainOptions
    running: RunOptions
    preset: str = "paper"  # for the record
    device: str = "auto"
    cache: Path | None = None  # of encoded images and texts
    dry_run: bool = False


def train(job: Job) -> int:
    """Make or continue a run and return the exit code.

    Raises `UserError` for a mistake, `Unfinished` if the run has to stop; the same call continues it.
    """
    check(job.options)
    check_running(job.running)
    check_judging(job.options)
    _require_one_process(job.options, launched())
    device = choose_device(own_device(job.device, launched()))
    job = replace(job, options=compute.resolved(job.options, job.running, device))
    with joined(device) as processes:
        return _train_with(processes, job, device)


def _train_with(processes: Processes, job: Job, device: torch.device) -> int:
    say = partial(print, file=sys.stderr) if processes.first else _be_silent
    together = f" in {processes.count} processes" if processes.count > 1 else ""
    say(f"handtrain: training on {device} with {torch.get_num_threads()} CPU threads{together}")
    base = open_base(job.base)
    photographs = load(job.dataset, job.gesture, limit=job.options.limit)
    planned = plan(job.gesture, photographs, base, job.options)
    if job.dry_run:
        if processes.first:
            print(f"{planned}\n{needs(planned, base, job.options, job.running, device, processes.count)}")
        return 0
    config = _config(job, base, photographs)
    if any(other != config for other in processes.everyone(config)):
        raise UserError("the processes see different options, data or models: give each the same command and files")

    def opened() -> RunFolder:
        require_writable_folder(job.out, "--out")
        require_disk(planned, job.out)
        return closing.enter_context(open_run(job.out, config, _session(job, device, processes), _absent()))

    with _memory_explained(), ExitStack() as closing:
        run = opened() if processes.count == 1 else _shared(processes, opened)
        if run.finished:
            say("handtrain: this run is finished")
        else:
            with _stoppable() as stopping:
                _train(job, run, base, photographs, device, stopping, processes)
    if processes.first:
        print(job.out / "model")
    return 0


def _shared(processes: Processes, opened: Callable[[], RunFolder]) -> RunFolder:
    """Open the run folder in the first process; the others get a view of it that writes nothing."""
    runs: list[RunFolder] = []

    def first() -> tuple[Path, dict[str, Any]]:
        runs.append(opened())
        return runs[0].path, runs[0].record

    path, record = processes.told(first)
    return runs[0] if runs else RunFolder(path, record, silent=True)


def _be_silent(sentence: str) -> None:
    """Say nothing: another process says it."""


def _train(
    job: Job,
    run: RunFolder,
    base: Base,
    photographs: Photographs,
    device: torch.device,
    stopping: Callable[[], bool],
    processes: Processes,
) -> None:
    options, running = job.options, job.running
    resume = processes.told(lambda: _newest_checkpoint(job.out / "checkpoints"))
    if processes.first:
        run.start_log(logged_lines(run, resume), running.tensorboard)
    again = options.landmarks == "recompute"
    feature = gesture_feature(found_again(photographs, True) if again else photographs.rows, options.feature)
    write_stage1(run, feature)
    values = torch.tensor(feature.values, dtype=torch.float32)  # (63,)
    cache = TensorCache(job.cache or assets.cache_folder() / "encoded")
    splits = [photographs, *(_validation(job, photographs) if processes.first else [])]
    (material, *validation), unconditional = processes.in_turn(
        lambda: materials(splits, base, options, values, device, cache, progress=processes.first)
    )
    unet = base.unet()
    if options.lora_rank:
        add_adapters(unet, options.lora_rank, options.seed)
    model = compute.diffusion(unet, base.training_schedule(), base.scaling(), options, running, device)
    judge = _judge(job, run, photographs, base, cache) if options.evaluate_every and processes.first else None
    observer = Observer(run, base, options, running, unconditional, validation[0] if validation else None, judge)
    ideal = _ideal(base, options, device, processes.count)
    training = Training(run, options, running, model, material, values, observer, resume, stopping, processes, ideal)
    layer = None
    if options.fusion == "token":
        layer = TokenFusion(base.width, NUMBERS).to(device)
        training.train_fusion(layer)
    if options.order == "images":
        training.image_after_image()
    else:
        training.stage3(training.stage2())
    if not processes.first:
        return
    kept = judge.restore(unet) if judge and options.keep == "best" else None
    if options.lora_rank:
        merge_adapters(unet)
    about = {**_about(job, run, base, photographs, feature), "fusion": fusion_record(base, options.seed, layer)}
    if kept is not None:
        about["training"]["kept"] = {"step": kept, "by": options.best_by}
    export(job.out / "model", base, unet, about, layer, running.safety_checker)
    run.update(finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))


def _ideal(base: Base, options: TrainOptions, device: torch.device, processes: int) -> dict[int, float]:
    """Return by stage the seconds that an image would take at the peak of all GPUs, if the table knows them."""
    peak = known_peak(device)
    if peak is None:
        return {}
    side = base.check_resolution(options.resolution) // base.latent_factor
    work = work_of_folder(base.folder, side, base.tokens, base.width)
    return {2: work.stage2 / peak / processes, 3: work.stage3 / peak / processes}


def _newest_checkpoint(folder: Path) -> checkpoint.Checkpoint | None:
    checkpoint.remove_partial(folder)
    found, damaged = checkpoint.newest(folder)
    for name in damaged:
        print(f"handtrain: the checkpoint {name} is damaged; an older state is taken", file=sys.stderr)
    return found


def _validation(job: Job, photographs: Photographs) -> list[Photographs]:
    running, judged = job.running, job.options.evaluate_every
    if not (running.validate_every or running.sample_every or judged):
        return []
    if "validation" not in splits_of(photographs.place, job.gesture):
        if judged:
            raise UserError("--evaluate-every needs a validation split, which the dataset does not have: say 0")
        print("handtrain: the dataset has no validation split: no validation loss, no samples", file=sys.stderr)
        return []
    count = max(running.validation_images, running.sample_prompts)
    return [load(photographs.place, job.gesture, "validation", count)]


def _judge(job: Job, run: RunFolder, photographs: Photographs, base: Base, cache: TensorCache) -> Judge:
    """Return what judges the model while it trains. Raises `UserError` where its metric cannot be computed."""
    from handtrain.evaluation.gesture_judge import gesture_judge, known_hands
    from handtrain.evaluation.image_sets import Preparation

    prepare = Preparation(base.check_resolution(job.options.resolution), job.options.crop)
    known = known_hands(photographs.place, prepare, cache, "--dataset")
    named = gesture_judge(known, job.gesture)
    if isinstance(named, str) and job.options.best_by == "gesture_accuracy":
        raise UserError(f"--best-by gesture_accuracy cannot be computed: {named}")
    real = training_angles(known[job.gesture])
    if real is None and job.options.best_by == "landmark_distance":
        raise UserError("--best-by landmark_distance: too few hands are found in the training images for a distance")
    judge = Judge(run, job.options, None if isinstance(named, str) else named, real)
    judge.remember()
    return judge


def _config(job: Job, base: Base, photographs: Photographs) -> dict[str, Any]:
    # A folder goes by its last name only: a run folder may be published or moved.
    dataset = photographs.place
    return {
        "gesture": job.gesture,
        "options": asdict(job.options),
        "dataset": {
            **_place(dataset, dataset if isinstance(dataset, HubName) else None),
            "rows": len(photographs.rows),
            "fingerprint": photographs.fingerprint(),
        },
        "base": {**_place(job.base, base.commit), "fingerprint": base.fingerprint()},
    }


def _place(place: Place, commit: HubName | None) -> dict[str, str | None]:
    if isinstance(place, Path):
        return {"place": place.resolve().name, "revision": None}
    return {"place": f"hf:{place.repo}", "revision": commit.revision if commit else place.revision}


def _absent() -> dict[str, Any]:
    return asdict(TrainOptions())


def _session(job: Job, device: torch.device, processes: Processes) -> dict[str, Any]:
    threads = torch.get_num_threads()
    return {
        "preset": job.preset,
        "running": asdict(job.running),
        "device": str(device),
        "threads": threads,
        "processes": processes.count,
        **_versions(),
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("hand1000", "torch", "diffusers", "transformers", "datasets")}


def _about(job: Job, run: RunFolder, base: Base, photographs: Photographs, feature: GestureFeature) -> dict[str, Any]:
    rows, card = photographs.rows, readme(photographs.place)
    return {
        "gesture": job.gesture,
        "gesture_phrase": rows[0].phrase,
        "feature": {"kind": feature.kind, "values": feature.values},
        "lam": job.options.lam,
        "crop": job.options.crop,
        "resolution": base.check_resolution(job.options.resolution),
        "seed": job.options.seed,
        "training": {
            **run.record["config"],
            "preset": job.preset,
            "images": len(rows),
            "without_hand": feature.without_hand,
            "llama3": "llama 3" in card.lower().replace("-", " ") and any(row.rewrite == "llm" for row in rows),
            "versions": _versions(),
        },
    }


def _require_one_process(options: TrainOptions, processes: Processes) -> None:
    if options.order == "images" and processes.count > 1:
        raise UserError("--order images works on one image after the other: start it as a single process")


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    asked: list[int] = []

    def ask(signum: int, frame: Any) -> None:
        if asked:  # the second time nobody waits for a step
            raise Unfinished("stopped by a signal; the same command continues the run")
        asked.append(signum)

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _memory_explained() -> Iterator[None]:
    remedy = "continue the run with --micro-batch 1 and --gradient-checkpointing, which change nothing but rounding"
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise Unfinished(f"out of memory: {remedy}") from None
