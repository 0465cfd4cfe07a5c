"""The flags of every `handtrain` command: one frozen dataclass each, whose call runs the driver."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from handdata.files import write_json
from handdata.gestures import PAPER_GESTURES
from handdata.huggingface import parse, parse_model
from handtrain.options import EvaluateOptions, GenerateOptions
from handtrain.presets import RunOptions, TrainOptions, check, options_of


@dataclass(frozen=True)
class Train:
    """Fine-tune a Stable Diffusion on one gesture of a dataset, in the paper's three stages.

    RUN/model is the result. The same command continues a run that was stopped, and does nothing to a finished one.
    Flags stand above the preset, whatever their order.
    """

    dataset: str  # hf:USER/NAME[@REVISION], or a folder that `handdata publish` made
    gesture: str  # HaGRID's name of the gesture, a configuration of the dataset
    base: str  # hf:USER/NAME[@REVISION], a diffusers folder or a shipped name: a Stable Diffusion 1 or 2
    out: Path  # the run folder
    preset: Literal["paper", "reference", "fast", "plus", "mini", "smoke"] = "paper"  # see docs/training.md
    options: Annotated[TrainOptions, tyro.conf.arg(name="")] = field(default_factory=TrainOptions)
    running: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    cache: Path | None = None  # of encoded images and texts; by default ~/.cache/hand1000/encoded
    dry_run: bool = False  # only check everything and say what the run would do and need

    @classmethod
    def defaults(cls, argv: list[str]) -> "Train":
        """Return the defaults of the preset that the command line names."""
        preset = "paper"
        for flag, value in zip(argv, [*argv[1:], ""], strict=True):
            if flag == "--preset":
                preset = value
            elif flag.startswith("--preset="):
                preset = flag.partition("=")[2]
        missing = tyro.MISSING
        return cls(missing, missing, missing, missing, preset, options_of(preset))  # type: ignore[arg-type]

    def __call__(self) -> int:
        check(self.options)
        dataset, base = parse(self.dataset, "--dataset"), parse_model(self.base, "--base")
        from handtrain.training.train import Job, train  # takes seconds: what is wrong at first sight is told before

        return train(
            Job(
                dataset=dataset,
                gesture=self.gesture,
                base=base,
                out=self.out,
                options=self.options,
                running=self.running,
                preset=self.preset,
                device=self.device,
                cache=self.cache,
                dry_run=self.dry_run,
            )
        )


@dataclass(frozen=True)
class Bench:
    """Time the presets against a plain loop that does the same as the released code, and print a Markdown table.

    All contenders train one UNet with random weights, in turns, in one process; one gesture is extrapolated.
    """

    model: Literal["auto", "sd14", "small", "tiny"] = "auto"  # auto: sd14 on a GPU, small (5 million weights) elsewhere
    presets: tuple[str, ...] = ("paper", "fast")  # presets to time; see docs/training.md
    steps: int = 200  # timed steps of every contender in each stage, a multiple of 20
    warmup: int = 3  # untimed steps before every 20 timed ones
    images: int = 1000  # number of images of the extrapolated gesture
    compile: Literal["no", "yes", "cuda-graphs"] = "no"  # torch.compile for the presets
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
    """Publish a trained model, with a fresh model card, and read back what arrived."""

    model: Path  # a finished run, or its model folder
    to: str  # hf:USER/NAME[@BRANCH], or a folder
    private: bool = False  # on the Hub: make a new repository private
    metrics: Path | None = None  # for the card: what `evaluate --json` wrote, or a JSON file of names and values

    def __call__(self) -> int:
        to = parse(self.to, "--to", new=True)
        from handtrain.model.publish import publish

        print(publish(self.model, to, self.private, self.metrics))
        return 0


@dataclass(frozen=True)
class ImportCheckpoint:
    """Make a model folder from a checkpoint of the paper's released code (its random fusion layer is left behind)."""

    checkpoint: Path  # the .ckpt file
    base: str  # the base it was trained from: hf:USER/NAME[@REVISION], a diffusers folder or a shipped name
    gesture: str  # HaGRID's name of the gesture
    out: Path  # the model folder

    def __call__(self) -> int:
        from handdata.gestures import gestures, require

        require((self.gesture,))
        phrase, base = gestures()[self.gesture].phrase, parse_model(self.base, "--base")
        from handtrain.model.import_checkpoint import import_checkpoint

        print(import_checkpoint(self.checkpoint, base, self.gesture, phrase, self.out))
        return 0


@dataclass(frozen=True)
class Generate:
    """Generate images from a trained model or from a plain base, so that both sides of a comparison are made alike.

    Every image has its own seed: neither batch nor number of processes (`accelerate launch`) changes it. The same
    command makes what is missing. No safety checker: it would turn images black, which are counted.
    """

    model: str  # hf:USER/NAME[@REVISION], a folder or a shipped name: a trained model, or a Stable Diffusion 1 or 2
    out: Path  # the folder of the images
    prompts: str | None = None  # a file with one prompt per line, or DATASET:SPLIT for the texts of its rows
    prompt: str | None = None  # a single prompt instead
    gesture: str | None = None  # configuration of the dataset; default: the model's own
    seeds: tuple[int, ...] = (0,)  # one image per prompt and seed
    options: Annotated[GenerateOptions, tyro.conf.arg(name="")] = field(default_factory=GenerateOptions)
    limit: int = 0  # only the first so many prompts; 0: all
    batch: int = 4  # images at once; changes nothing but rounding
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    dry_run: bool = False  # only check everything and say what would be made

    def __call__(self) -> int:
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        fields["model"] = parse_model(self.model, "--model")
        from handtrain.generation.generate import Job, generate

        return generate(Job(**fields))


@dataclass(frozen=True)
class Evaluate:
    """Compare generated images with real ones: FID, KID, hands, gesture, text; with intervals and in both variants.

    A metric whose weights are not here is `not computed`, with the reason. See docs/evaluation.md.
    """

    real: str  # DATASET:SPLIT or a folder with images
    fake: Path  # a folder with generated images
    base: Path | None = None  # images of the base model from the same prompts and seeds: adds the difference
    gesture: str | None = None  # asked for; default: what the generated images say
    landmarks: str | None = None  # DATASET whose training hands tell gestures apart; default: that of --real
    options: Annotated[EvaluateOptions, tyro.conf.arg(name="")] = field(default_factory=EvaluateOptions)
    json: Path | None = None  # write everything to this file
    details: Path | None = None  # write to this file a line for every image: its hands and the gestures that they make
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    cache: Path | None = None  # of what was found in real images; default ~/.cache/hand1000/features

    def __call__(self) -> int:
        from handtrain.evaluation.evaluate import Job, evaluate

        return evaluate(Job(**{name: getattr(self, name) for name in self.__dataclass_fields__}))


@dataclass(frozen=True)
class Report:
    """Write one page from one or many runs: metrics, loss curves, picture grids, sweeps, cost. It opens from disk.

    A run's evaluations are the files RUN/evaluation*.json that `handtrain evaluate --json` wrote.
    """

    runs: Positional[tuple[Path, ...]]  # run folders
    out: Path  # FILE.html; the same in Markdown goes to FILE.md
    title: str = "hand1000"  # of the page
    pictures: int = 6  # rows of a picture grid

    def __call__(self) -> int:
        from handtrain.reporting.report import report

        return report(self.runs, self.out, self.title, self.pictures)


@dataclass(frozen=True)
class Reproduce:
    """Make the paper's table: base images, training, tuned images, all metrics, one report; for one or more gestures.

    A chain of train, generate, evaluate and report. The same command continues where it stopped.
    """

    dataset: str  # hf:USER/NAME[@REVISION], or a folder that `handdata publish` made
    base: str  # hf:USER/NAME[@REVISION], a diffusers folder or a shipped name: a Stable Diffusion 1 or 2
    out: Path  # the folder of everything; the report is OUT/report.html
    gestures: tuple[str, ...] = PAPER_GESTURES  # configurations of the dataset; default: the paper's six
    preset: Literal["paper", "reference", "fast", "plus", "mini", "smoke"] = "paper"  # see docs/training.md
    lam: float | None = None  # share of the text embedding in training; default: the preset's
    split: str = "test"  # whose texts are the prompts and whose images are the real ones
    limit: int = 0  # only so many prompts; 0: all
    seeds: tuple[int, ...] = (0,)  # one image per prompt and seed
    generate: GenerateOptions = field(default_factory=GenerateOptions)
    evaluate: EvaluateOptions = field(default_factory=EvaluateOptions)
    batch: int = 4  # generated images at once
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    dry_run: bool = False  # only check everything and say what it will cost

    def __call__(self) -> int:
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        fields.update(dataset=parse(self.dataset, "--dataset"), base=parse_model(self.base, "--base"))
        from handtrain.reproduce import Plan, reproduce

        return reproduce(Plan(**fields))
