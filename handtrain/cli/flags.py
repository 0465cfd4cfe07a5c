"""The flags of every `handtrain` command: a frozen dataclass each, whose call runs the API function and prints."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import tyro
from tyro.conf import Positional

from handdata.errors import UserError
from handdata.files import write_json
from handdata.gestures import PAPER_GESTURES
from handdata.huggingface import parse_dataset, parse_model
from handtrain.cli.given import named
from handtrain.cli.in_browser import App as App
from handtrain.data.dataset import require_trainable
from handtrain.options import EvaluateOptions, GenerateOptions
from handtrain.presets import PRESETS, RunOptions, TrainOptions, check, options_of

_Preset: TypeAlias = Literal[tuple(PRESETS)]  # type: ignore[valid-type]
_PredictionType: TypeAlias = Literal["epsilon", "v_prediction"] | None
_OF_TRAIN = ("out", "cache", "verify", "dry_run")  # flags of `train` that its plan does not need


@dataclass(frozen=True)
class Train:
    """Fine-tune a Stable Diffusion on one or more gestures of a dataset, in the paper's three stages.

    The result is RUN/model. The same command resumes an interrupted run and leaves a finished one unchanged. Flags
    override the preset, in any order.
    """

    dataset: str  # dataset: hf:USER/NAME[@REVISION], or a folder of `handdata publish`
    gesture: tuple[str, ...]  # gestures, configurations of the dataset: HaGRID's names, or all
    base: str  # base model, a Stable Diffusion 1, 2 or XL: hf:USER/NAME[@REVISION], a folder, a file or a shipped name
    out: Path  # run folder
    preset: _Preset = "paper"  # see docs/training.md
    options: Annotated[TrainOptions, tyro.conf.arg(name="")] = field(default_factory=TrainOptions)
    running: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    # memory of a card that the run has to fit into, for which --micro-batch, --gradient-checkpointing, --optimizer
    # and --lora-rank are chosen in this order, unless they are given: auto (that of the GPU), or a size such as 24GiB
    fit: str | None = None
    given: Annotated[tuple[str, ...], tyro.conf.Fixed, tyro.conf.Suppress] = ()  # options of the command line
    cache: Path | None = None  # cache of encoded images and texts; by default ~/.cache/hand1000/encoded
    verify: bool = False  # read every file of a finished run again, and make again those that are damaged
    dry_run: bool = False  # check everything, and print the steps, memory, disk space and time of the run
    prediction_type: _PredictionType = None  # prediction type of a --base in one file that does not state it

    @classmethod
    def defaults(cls, argv: list[str]) -> "Train":
        """Return the defaults of the preset that the command line names."""
        preset, given = named(argv, "")
        missing = tyro.MISSING
        return cls(missing, missing, missing, missing, preset, options_of(preset), given=given)  # type: ignore[arg-type]

    def __call__(self) -> int:
        check(self.options)
        require_trainable(self.dataset, self.gesture, "--gesture")
        parse_dataset(self.dataset, "--dataset")
        parse_model(self.base, "--base")
        from handtrain.run.phases import Phases, program_start
        from handtrain.run.processes import launched
        from handtrain.training.train import plan_run, train  # takes seconds, so cheap checks come first

        arguments = {name: value for name, value in vars(self).items() if name not in _OF_TRAIN}
        own = {name: getattr(self, name) for name in _OF_TRAIN if name != "dry_run"}
        phases = Phases(program_start())
        result = plan_run(**arguments) if self.dry_run else train(**arguments, **own, phases=phases).model
        if launched().first:
            print(result)
        return 0


@dataclass(frozen=True)
class Bench:
    """Time the presets against a plain loop that does the same as the released code, and print a Markdown table.

    Each contender trains a UNet of its own with random weights in a process of its own, those that compile last. The
    first step, in which everything is compiled, is timed by itself; one gesture is extrapolated from the others.
    """

    model: Literal["auto", "sd14", "small", "tiny"] = "auto"  # auto: sd14 on a GPU, small (5 million weights) elsewhere
    presets: tuple[str, ...] = ("paper", "fast")  # presets to time; see docs/training.md
    batch: tuple[int, ...] = ()  # images per step of further contenders: every preset with each of these batches
    compile: tuple[Literal["blocks", "yes", "cuda-graphs"], ...] = ()  # further contenders: presets with torch.compile
    graphs: bool = False  # further contenders: every preset with the steps of Stage III replayed as CUDA graphs
    steps: int = 200  # timed steps of every contender in each stage, a multiple of 20
    warmup: int = 3  # number of steps of each stage before the timed ones
    images: int = 1000  # number of images of the extrapolated gesture
    minutes: float = 0.0  # time for all contenders together, of which each has an equal share; 0: no limit
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    json: Path | None = None  # file for the figures as JSON

    def __call__(self) -> int:
        for preset in self.presets:
            options_of(preset)
        from handtrain.bench.bench import bench, table

        flags = dict(vars(self))
        file = flags.pop("json")
        result = bench(**flags)
        print(table(result))
        if file:
            write_json(file, result)
        return 0


@dataclass(frozen=True)
class Publish:
    """Publish a trained model with a new model card, and verify the published files."""

    model: Path  # finished run, or its model folder
    to: str  # hf:USER/NAME[@BRANCH], or a folder (a new one that looks like USER/NAME: ./USER/NAME)
    private: bool = False  # make a new repository on the Hub private
    metrics: Path | None = None  # metrics for the card: a file of `evaluate --json`, or a JSON file of names and values

    def __call__(self) -> int:
        from handtrain.publish import publish

        print(publish(**vars(self)))
        return 0


@dataclass(frozen=True)
class ImportCheckpoint:
    """Make a model folder from a checkpoint of the paper's released code, without its random fusion layer."""

    checkpoint: Path  # .ckpt file
    base: str  # base model of the checkpoint: hf:USER/NAME[@REVISION], a folder, a .safetensors file or a shipped name
    gesture: str  # HaGRID's name of the gesture
    out: Path  # model folder
    prediction_type: _PredictionType = None  # prediction type of a --base in one file that does not state it

    def __call__(self) -> int:
        from handtrain.model.import_checkpoint import import_checkpoint

        print(import_checkpoint(**vars(self)))
        return 0


@dataclass(frozen=True)
class Export:
    """Write a trained model or a base in the format that another program reads.

    diffusers and fp16: a folder in float32 or float16. single-file: the original names, for ComfyUI and A1111. lora:
    the change of the UNet alone, which is the adapters of a LoRA run, else the difference to the base, factored. A
    single file and a LoRA carry neither the gesture feature nor the pose layers. A pickle (.ckpt, .bin) is converted.
    """

    model: Positional[str]  # trained model or base: a run, a folder, a file, hf:USER/NAME[@REVISION] or a shipped name
    to: Literal["diffusers", "fp16", "single-file", "lora"]  # format
    out: Path  # new folder; for single-file and lora a new file, FILE.safetensors
    base: str | None = None  # lora: the base that the model was trained from; default: that of hand1000.json on the Hub
    rank: int | None = None  # lora: rank of the factors of a model that was trained in full; default: 32
    layers: Literal["attention", "all"] | None = None  # lora: layers of the UNet that are factored; default: all
    lora_format: Literal["diffusers", "kohya"] | None = None  # lora: default diffusers; kohya for ComfyUI and A1111
    lora_precision: Literal["fp32", "fp16"] | None = None  # lora: number format of the file; default: fp32
    images: int | None = None  # lora: number of pictures that are compared with the full model's; 0: none; default: 4
    device: str | None = None  # lora: device of these pictures: auto, cpu, cuda, cuda:1; default: auto
    prediction_type: _PredictionType = None  # prediction type of a single file that does not state it

    def __call__(self) -> int:
        from handtrain.exporting.export import export

        print(export(**vars(self)))
        return 0


@dataclass(frozen=True)
class Generate:
    """Generate images from a trained model or a plain base, both in the same way.

    Every image has its own seed: neither the batch nor the number of processes (`accelerate launch`) changes it. The
    same command generates the missing images. A safety checker, which would turn images black, is not used; black
    images are counted.
    """

    model: str  # trained model or Stable Diffusion 1, 2 or XL: hf:USER/NAME[@REVISION], a folder, file or shipped name
    out: Path  # folder of the images
    prompts: str | None = None  # file with one prompt per line, or DATASET:SPLIT for the texts of its rows
    prompt: str | None = None  # single prompt, in place of --prompts
    gesture: str | None = None  # gesture of the dataset's rows; default: the model's own, if it has one
    seeds: tuple[int, ...] = (0,)  # random seeds: one image per prompt and seed
    options: Annotated[GenerateOptions, tyro.conf.arg(name="")] = field(default_factory=GenerateOptions)
    limit: int = 0  # number of prompts to use, from the first; 0: all
    # number of images generated at once, which changes them by rounding only; auto: 16 on a GPU, halved when memory
    # runs out, else 4
    batch: int | Literal["auto"] = "auto"
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    dry_run: bool = False  # check everything, and print the number of images and steps
    prediction_type: _PredictionType = None  # prediction type of a --model in one file that does not state it

    def __call__(self) -> int:
        from handtrain.generation.generate import generate, planned
        from handtrain.generation.pictures import summary
        from handtrain.run.processes import launched

        flags = dict(vars(self))
        if flags.pop("dry_run"):
            print(planned(**flags))
            return 0
        folder = generate(**flags)
        if launched().first:
            print(summary(folder))
        return 0


@dataclass(frozen=True)
class Evaluate:
    """Compare generated images with real ones: FID, KID, FD-DINOv2, CMMD, hands, gesture, text; with intervals.

    A metric whose weights are not on this machine is `not computed`, with the reason. See docs/evaluation.md.
    """

    real: str  # DATASET:SPLIT, or a folder of real images
    fake: Path  # folder of generated images
    base: Path | None = None  # folder of the base model's images from the same prompts and seeds; adds the difference
    gesture: str | None = None  # gesture that the images should show; default: the one that the generated images record
    landmarks: str | None = None  # DATASET whose training hands tell gestures apart; default: that of --real
    free: Path | None = None  # folder of the model's images of prompts without a gesture; adds specificity
    free_base: Path | None = None  # folder of the base's images from the prompts and seeds of --free; adds retention
    others: tuple[Path, ...] = ()  # folders of the model's images of other gestures, each with its own --gesture
    options: Annotated[EvaluateOptions, tyro.conf.arg(name="")] = field(default_factory=EvaluateOptions)
    json: Path | None = None  # file for the whole evaluation as JSON
    details: Path | None = None  # JSON Lines file for the hands of every image and their gestures
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    cache: Path | None = None  # folder for features of real images; default ~/.cache/hand1000/features

    def __call__(self) -> int:
        from handtrain.evaluation.evaluate import evaluate

        flags = dict(vars(self))
        file = flags.pop("json")
        scores = evaluate(**flags)
        print(scores)
        if file:
            scores.write(file)
        return 0


@dataclass(frozen=True)
class Judge:
    """Judge the hands in folders of images of any program: rank the folders, show their worst and best hands.

    No real images and no dataset are needed; subfolders, all sizes and any number of hands are included. See
    docs/judge.md.
    """

    folders: Positional[tuple[Path, ...]]  # folders of images
    out: Path  # page to write, FILE.html
    json: Path | None = None  # file for all measures, images and hands as JSON
    csv: Path | None = None  # file with a row per hand
    anatomy: bool = True  # judge the anatomy of every hand, which takes most of the time
    judge: tuple[str, ...] = ()  # other judges of each hand: NAME or NAME:KEY=VALUE,... (vlm, and those of packages)
    crops: int = 12  # number of worst and of best hands to show of each folder
    workers: int = 0  # number of processes; 0: one per core
    ask: int = 0  # write OUT-people.html too, a page that asks a person about so many of the hands
    answers: tuple[Path, ...] = ()  # files of answers from that page: print how far people and p_wrong agree

    def __call__(self) -> int:
        from handtrain.judging.judge import judge
        from handtrain.raters import people

        flags = {name: value for name, value in vars(self).items() if name not in ("ask", "answers")}
        if (self.ask or self.answers) and self.csv is None:
            raise UserError("--ask and --answers need --csv FILE, the hands that they are about")
        judgement = judge(flags.pop("folders"), judges=flags.pop("judge"), **flags)
        print(judgement, self.out, sep="\n")  # before a mistake in the answers
        hands = people.hands_from_csv(self.csv) if self.csv and (self.ask or self.answers) else []
        if self.ask > len(hands):
            print(f"--ask {self.ask}: only {len(hands)} hands were found")
        if self.ask and hands:
            print(people.ask(hands, min(self.ask, len(hands)), 0, self.out.with_name(f"{self.out.stem}-people.html")))
        if self.answers:
            print(people.describe(people.agreement(self.answers, hands)))
        return 0


@dataclass(frozen=True)
class Report:
    """Write one page from one or many runs: metrics, loss curves, picture grids, sweeps, cost. It opens from disk.

    A run's evaluations are the files RUN/evaluation*.json that `handtrain evaluate --json` wrote.
    """

    runs: Positional[tuple[Path, ...]]  # run folders
    out: Path  # page to write, FILE.html; its tables are written to FILE.md as Markdown
    title: str = "hand1000"  # title of the page
    pictures: int = 6  # number of rows of a picture grid

    def __call__(self) -> int:
        from handtrain.reporting.report import report

        print(report(**vars(self)))
        return 0


@dataclass(frozen=True)
class Reproduce:
    """Make the paper's table for one or more gestures: base images, training, tuned images, all metrics, one report.

    A chain of generate, train, evaluate and report. The same command resumes where it stopped.
    """

    dataset: str  # dataset: hf:USER/NAME[@REVISION], or a folder of `handdata publish`
    base: str  # base model, a Stable Diffusion 1, 2 or XL: hf:USER/NAME[@REVISION], a folder, a file or a shipped name
    out: Path  # folder of all results; the report is OUT/report.html
    gestures: tuple[str, ...] = PAPER_GESTURES  # gestures, configurations of the dataset; default: the paper's six
    preset: _Preset = "paper"  # see docs/training.md
    lam: float | None = None  # share of the text embedding in training, 0 to 1; default: the preset's
    split: str = "test"  # split whose texts are the prompts and whose images are the real ones
    limit: int = 0  # number of prompts to use, from the first; 0: all
    seeds: tuple[int, ...] = (0,)  # random seeds: one image per prompt and seed
    train: TrainOptions = field(default_factory=TrainOptions)
    running: RunOptions = field(default_factory=RunOptions)
    generate: GenerateOptions = field(default_factory=GenerateOptions)
    evaluate: EvaluateOptions = field(default_factory=EvaluateOptions)
    fit: str | None = None  # memory of a card that the training has to fit into, see `handtrain train`
    given: Annotated[tuple[str, ...], tyro.conf.Fixed, tyro.conf.Suppress] = ()  # training options of the command line
    cache: Path | None = None  # cache of encoded images and texts; by default ~/.cache/hand1000/encoded
    verify: bool = False  # read every file of finished runs again, and make again those that are damaged
    batch: int | Literal["auto"] = "auto"  # number of images generated at once, see `handtrain generate`
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    dry_run: bool = False  # check everything, and print the images, steps, memory, disk space and time
    prediction_type: _PredictionType = None  # prediction type of a --base in one file that does not state it

    @classmethod
    def defaults(cls, argv: list[str]) -> "Reproduce":
        """Return the defaults of the preset that the command line names."""
        preset, given = named(argv, "train.", "running.")
        missing = tyro.MISSING
        return cls(missing, missing, missing, preset=preset, train=options_of(preset), given=given)  # type: ignore[arg-type]

    def __call__(self) -> int:
        from handtrain.evaluation.records import read_evaluation
        from handtrain.evaluation.scores import Scores
        from handtrain.reproduce import RESULT, planned, reproduce

        unset = ("dry_run", "train", *(["lam"] if self.lam is None else []))
        flags = {name: value for name, value in vars(self).items() if name not in unset} | {"options": self.train}
        if self.dry_run:
            unplanned = ("out", "evaluate", "batch", "cache", "verify")
            print(planned(**{name: flags[name] for name in flags if name not in unplanned}))
            return 0
        page = reproduce(**flags)
        for gesture in self.gestures:
            print(f"{gesture}\n{Scores(read_evaluation(self.out / gesture / RESULT))}")
        print(page)
        return 0
