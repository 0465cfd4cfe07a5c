"""The rows of `benchmarks.pose_method`: every training of every stage, and the images drawn from it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from handtrain.presets import PRESETS

BASE = "mini-stable-diffusion"
HELD = ("ok", "rock", "three")  # never trained by the models of all others
TRAINED = (
    "call", "dislike", "fist", "four", "like", "mute", "one", "palm", "peace", "peace_inverted", "stop",
    "stop_inverted", "three2", "two_up", "two_up_inverted",
)  # fmt: skip
SHOWN = ("palm", "peace", "fist", "call")  # of TRAINED: those of the first trials
PAPER = ("call", "four", "like", "mute", "ok", "palm")
EVERY = tuple(sorted((*TRAINED, *HELD)))

BATCH = 32
ROUTES = "map,time,tokens"
# Plain fine-tuning: one gesture's images and texts, nothing else.
PLAIN: dict[str, Any] = {
    "lam": 1.0, "embedding_steps": 0, "unet_batch": BATCH, "unet_lr": 4e-4, "unet_warmup": 50, "precision": "bf16",
}  # fmt: skip
# The same with the switches that any training may have.
TUNED: dict[str, Any] = {
    **PLAIN, "unet_decay": "linear", "unet_clip": 1.0, "text_dropout": 0.1, "times": "late", "ema": 0.995,
}  # fmt: skip
# The first screening's options: all routes, and the other pose options at the defaults of that time.
SCREENED: dict[str, Any] = {**TUNED, "pose": ROUTES, "pose_rate": 4.0, "pose_dropout": 0.1}
MAP: dict[str, Any] = {**TUNED, "pose": "map", "pose_rate": 10.0, "hand_weight": 4.0}
# The same with what keeps the rest of the model: the base's own pictures, and every image with its pose.
KEEP: dict[str, Any] = {**MAP, "unet_lr": 8e-4, "prior": 0.25, "pose_dropout": 0.0}
PLUS: dict[str, Any] = {**KEEP, "times": "uniform"}
# Plain fine-tuning at the best rate and length of the grid on `palm`.
FAIR: dict[str, Any] = {**TUNED, "unet_lr": 8e-4}


# Images of models with poses are drawn with this scale of guidance.
POSED: dict[str, Any] = {"guidance": 2.0}


@dataclass(frozen=True)
class Part:
    """Images of a row: `count` for each gesture, with a scale of guidance (default: the row's).

    kind: `rows`, test texts with their rows' own landmarks as poses; `own`, test texts with poses from the model's
    bank; `words` (and `words at 2`), test texts without a pose; `free`, captions without a gesture and without a pose.
    """

    kind: str
    gestures: tuple[str, ...]
    count: int = 40
    guidance: float | None = None


@dataclass(frozen=True)
class Row:
    """One training and its images. Rows with equal names are equal."""

    stage: str
    variant: str
    gestures: tuple[str, ...]
    options: dict[str, Any]
    samples: int
    parts: tuple[Part, ...]
    seed: int = 0
    keep: bool = field(default=False, compare=False)  # whether the model is kept
    # of the images: guidance, pose_guidance (default: the same), steps
    drawing: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def name(self) -> str:
        """The name of the row's files."""
        what = self.gestures[0] if len(self.gestures) == 1 else str(len(self.gestures))
        text = f"{self.stage}-{self.variant}-{what}-{self.samples}-{self.seed}"
        return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in text)


_SCREENED = (Part("rows", (*SHOWN, *HELD)), Part("words", SHOWN, 20), Part("free", EVERY, 6))
_SCREENED_PLAIN = (Part("words", (*SHOWN, *HELD)), Part("free", EVERY, 6))


def screen(samples: int) -> Iterator[Row]:
    """Yield one training of every route and every switch, all other things equal."""
    for routes in ("tokens", "time", "map", "time,tokens", "map,time", "map,tokens", ROUTES):
        yield _screened(routes, {"pose": routes}, samples)
    switches: dict[str, dict[str, Any]] = {
        "hand weight 2": {"hand_weight": 2.0},
        "hand weight 4": {"hand_weight": 4.0},
        "hand weight 8": {"hand_weight": 8.0},
        "prior 0.25": {"prior": 0.25},
        "no average": {"ema": 0.0},
        "times uniform": {"times": "uniform"},
        "times middle": {"times": "middle"},
        "times early": {"times": "early"},
        "min-SNR 5": {"min_snr": 5.0},
        "rate 2e-4": {"unet_lr": 2e-4},
        "rate 8e-4": {"unet_lr": 8e-4},
        "pose rate 1": {"pose_rate": 1.0},
        "pose rate 10": {"pose_rate": 10.0},
        "no text dropout": {"text_dropout": 0.0},
        "constant rate": {"unet_decay": "none"},
    }
    for name, changes in switches.items():
        yield _screened(name, changes, samples)
    yield Row("screen", "no pose", TRAINED, TUNED, samples, _SCREENED_PLAIN)


def grid(samples: int) -> Iterator[Row]:
    """Yield plain fine-tuning on `palm` at rates and lengths, with and without the switches of any training."""
    parts = (Part("words", ("palm",), 80), Part("free", EVERY, 4))
    for length in (samples // 2, samples, 2 * samples, 4 * samples):
        for rate in (1e-4, 2e-4, 4e-4, 8e-4):
            for name, options in (("plain", PLAIN), ("tuned", TUNED)):
                yield Row("grid", f"{name} {rate:g}", ("palm",), {**options, "unet_lr": rate}, length, parts)


def final(samples: int, winner: dict[str, Any], baseline: dict[str, Any], seeds: int) -> Iterator[Row]:
    """Yield the comparison at full length: the winner, plain fine-tuning and two ablations, seeds in turn.

    One model of the paper's six gestures has a third of the samples of six single models; one of 15 gestures is asked
    for three that it never saw. Each single model is trained on `samples` samples, with winner and baseline in pairs.
    """
    free = Part("free", EVERY, 24)
    six = (Part("own", PAPER, 400), Part("rows", PAPER), Part("words", PAPER), free)
    yield Row("final", "winner", PAPER, winner, 2 * samples, six, drawing=POSED)
    yield Row("final", "all routes", PAPER, {**winner, "pose": ROUTES}, 2 * samples, six, drawing=POSED)
    fifteen = (Part("rows", HELD, 100), Part("rows", TRAINED), Part("own", SHOWN, 100), Part("words", SHOWN), free)
    yield Row("final", "winner", TRAINED, winner, max(samples, 65536), fifteen, keep=True, drawing=POSED)
    for seed in range(seeds):
        for gesture in ("ok", "call"):
            yield from _pair(gesture, samples, winner, baseline, seed)
    for gesture in ("four", "like", "mute", "palm"):
        yield Row("final", "winner", (gesture,), winner, samples, (Part("own", (gesture,), 400), free), drawing=POSED)
    ablations = {"no pose": {**winner, "pose": "none"}, "no map": {**winner, "pose": "time,tokens"}}
    for seed in range(seeds):
        for name, options in ablations.items():
            kind = "words" if name == "no pose" else "own"
            yield Row("final", name, ("ok",), options, samples, (Part(kind, ("ok",), 300), free), seed, drawing=POSED)
    for seed in range(seeds):
        yield from _pair("fist", samples, winner, baseline, seed)


def _pair(gesture: str, samples: int, winner: dict[str, Any], baseline: dict[str, Any], seed: int) -> Iterator[Row]:
    """Yield both methods on one gesture. Plain fine-tuning is drawn with both scales of guidance."""
    count = 300 if seed else 400
    free = Part("free", EVERY, 6 if seed else 24)
    own = Part("own", (gesture,), count), Part("rows", (gesture,))
    words = Part("words", (gesture,), count), Part("words at 2", (gesture,), count, 2.0)
    yield Row("final", "winner", (gesture,), winner, samples, (*own, free), seed, drawing=POSED)
    yield Row("final", "plain", (gesture,), baseline, samples, (*words, free), seed)


def explore() -> Iterator[Row]:
    """Yield single trainings at larger budgets: 15 gestures, single ones, and ways to train and to draw."""
    free = Part("free", EVERY, 6)
    posed = (Part("rows", (*SHOWN, *HELD)), Part("own", SHOWN), Part("words", SHOWN, 20), free)
    keep4, all_routes = {**KEEP, "unet_lr": 4e-4}, {"pose": ROUTES}
    for name, options in {
        "map r10 h1": {**MAP, "hand_weight": 1.0}, "map r10 h4": MAP, "map r20 h4": {**MAP, "pose_rate": 20.0},
        "map tokens r10 h4": {**MAP, "pose": "map,tokens"}, "all r10 h4": {**MAP, **all_routes},
        "map r10 h4 lr8": {**MAP, "unet_lr": 8e-4}, "map r10 h4 keep": keep4, "map r10 h4 lr8 keep": KEEP,
        "all r10 h4 lr8 keep": {**KEEP, **all_routes},
    }.items():  # fmt: skip
        yield Row("explore", name, TRAINED, options, 65536, posed)
    for gesture in ("ok", "call", "fist"):
        own = (Part("own", (gesture,), 160), Part("rows", (gesture,), 80), Part("words", (gesture,), 80), free)
        words = (Part("words", (gesture,), 160), free)
        for name, options, parts in (
            ("keep lr4", keep4, own), ("keep lr8", KEEP, own), ("plain lr4", PLAIN, words),
            ("tuned lr8", {**TUNED, "unet_lr": 8e-4}, words),
        ):  # fmt: skip
            yield Row("explore", name, (gesture,), options, 16384, parts)
    for gesture in ("four", "like", "mute", "palm"):  # with ok and call: the paper's six, one model each
        yield Row("explore", "keep lr8", (gesture,), KEEP, 16384, (Part("own", (gesture,), 160), free))
    own_words = (Part("own", ("ok",), 160), Part("words", ("ok",), 80), free)
    yield Row("explore", "nokeep lr8", ("ok",), {**MAP, "unet_lr": 8e-4}, 16384, own_words)
    six = (Part("own", PAPER, 80), Part("rows", PAPER), Part("words", PAPER, 20), free)
    yield Row("explore", "six keep lr8", PAPER, KEEP, 32768, six)
    yield from _explored_ways()


def _explored_ways() -> Iterator[Row]:
    """Yield one gesture with other switches, other scales of guidance, and the largest budget."""
    free, tuned = Part("free", EVERY, 4), {**TUNED, "unet_lr": 8e-4}
    trained: dict[str, dict[str, Any]] = {
        "uniform": {"times": "uniform"}, "middle": {"times": "middle"}, "early": {"times": "early"},
        "minsnr": {"min_snr": 5.0}, "h8": {"hand_weight": 8.0}, "lr16": {"unet_lr": 16e-4}, "all": {"pose": ROUTES},
    }  # fmt: skip
    drawn: dict[str, dict[str, Any]] = {
        "p1.5": {"pose_guidance": 1.5}, "p6": {"pose_guidance": 6.0}, "g1.5": {"guidance": 1.5},
        "g2": {"guidance": 2.0}, "g5": {"guidance": 5.0}, "s50": {"steps": 50},
    }  # fmt: skip
    for gesture in ("call", "fist"):
        parts = (Part("own", (gesture,), 160), Part("rows", (gesture,), 120), free)
        for name, changes in trained.items():
            yield Row("explore", name, (gesture,), {**KEEP, **changes}, 16384, parts)
        for name, drawing in drawn.items():
            yield Row("explore", name, (gesture,), KEEP, 16384, parts, drawing=drawing)
    for gesture in ("ok", "call", "fist"):
        parts = (Part("own", (gesture,), 160), Part("rows", (gesture,), 120), free)
        yield Row("explore", "x", (gesture,), PLUS, 65536, parts)
        yield Row("explore", "tuned", (gesture,), tuned, 65536, (Part("words", (gesture,), 240), free))


def presets() -> Iterator[Row]:
    """Yield a training on `palm` of every preset: 20 epochs of 200 pictures, at the mini models' rates."""
    rates = {"paper": 2.5e-5, "reference": 2.5e-5, "fast": 4e-4, "plus-2025": 4e-4, "mini": 4e-4, "plus": 8e-4}
    rest = Part("words", ("peace", "fist", "call"), 30), Part("free", EVERY, 6)
    for name, rate in rates.items():
        options = {**PRESETS[name].changes, "unet_lr": rate, "limit": 200, "crop": "center"}
        if name != "reference":  # the released code's order is that of float32
            options["precision"] = "bf16"
        posed = "pose" in options
        if not posed:
            options |= {"unet_samples": 0, "unet_epochs": 20}
        first = Part("own" if posed else "words", ("palm",), 80)
        yield Row("presets", name, ("palm",), options, 4000, (first, *rest), drawing=POSED if posed else {})


def ceiling() -> Row:
    """Return the real test pictures, as they are and through the VAE: no training can draw better hands than these."""
    return Row("ceiling", "test pictures", (), {}, 0, (Part("real", EVERY), Part("vae", EVERY)))


def base() -> Row:
    """Return the untrained base: the same prompts and noise."""
    return Row("base", "base", (), {}, 0, (Part("words", EVERY), Part("free", EVERY, 24)))


def _screened(name: str, changes: dict[str, Any], samples: int) -> Row:
    return Row("screen", name, TRAINED, {**SCREENED, **changes}, samples, _SCREENED)
