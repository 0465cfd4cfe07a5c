"""The stage `rewrite`: make each caption name its gesture, by a language model with checks, or else by a template.

The prompt file is `prompts/rewrite.txt`. The first attempt is greedy. Later attempts get the failed draft and the
reason, and are sampled at a temperature, each with its own seed. (Hand1000, section 4, queries LLaMA 3 once and checks
nothing.)
"""

import hashlib
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from handdata import assets
from handdata.errors import UserError
from handdata.files import sha256_of
from handdata.gestures import gestures
from handdata.readers import read_text
from handdata.recipe import RewriteOptions, flag
from handdata.rows.shards import read_table
from handdata.shipped import resource
from handdata.stages import Columns, stage_named
from handdata.texts.answers import Conversation
from handdata.texts.chat import Answer, Ask, ChatModel, Prompt, read_prompt
from handdata.texts.chat_template import DATE
from handdata.texts.checks import DRAFT_FAILURES, FAILURES, Evidence, explain, failures
from handdata.texts.template import splice

_STOPS = {"length": "endless", "timeout": "timeout", "prompt": "prompt-too-long"}
_MANY, _NEARLY_ALL = 8, 0.9  # a shard of so many first drafts of which so many fail alike is remarked on
_REMEDIES = {
    "reasoning": "the model only reasons: serve it with reasoning switched off, raise max_tokens, or use another model",
    "endless": "the answers do not end within max_tokens: raise it, or use an instruction-tuned model",
    "timeout": "the server does not answer in time: raise the timeout",
    "prompt-too-long": "the prompt is too long for the model's context",
    "empty": "the answers are empty",
    "phrase-missing": "the words of the gesture are missing",
    "phrase-repeated": "the words of the gesture are repeated",
}
_NOT_DECIDING = ("key_variable", "threads", "gpu_layers", "timeout", "server", "device")


@dataclass
class Text:
    """The text of one caption, and its origin."""

    text: str | None = None
    rewrite: Literal["llm", "kept", "template"] | None = None
    failed: list[str] = field(default_factory=list)  # caption:NAME and draft:NAME, each once, in order
    first: dict[str, Evidence] | None = None  # failures of the first draft, None without a draft


class Rewriting:
    """Write the text of each row."""

    version: ClassVar = 3
    inputs: ClassVar = ("caption", "gesture")
    final_reasons: ClassVar = frozenset({"text-impossible"})
    threads: ClassVar = True

    @staticmethod
    def fingerprint(options: RewriteOptions) -> Any:
        # llama.cpp in this process rounds differently for another number of sequences
        excluded = (*_NOT_DECIDING, "parallel") if options.server else _NOT_DECIDING
        deciding = {name: value for name, value in asdict(options).items() if name not in excluded}
        names = {name: asdict(gesture) for name, gesture in gestures().items()}
        model = options.model if options.server else Path(options.model).name
        gpu = {"device": "gpu", "gpu_layers": options.gpu_layers} if Rewriting.on_gpu(options) else {}
        return {
            **deciding,
            **gpu,
            "model": model,
            "sha256": None if options.server else model_hash(options.model),
            "prompt": prompt_text(options),
            "template": template_text(options),
            "date": DATE.date().isoformat(),  # printed by chat templates
            "gestures": names,
        }

    @staticmethod
    def packages(options: RewriteOptions) -> tuple[str, ...]:
        return () if options.server else ("llama-cpp-python", "jinja2")

    @staticmethod
    def on_device(options: RewriteOptions, gpu: bool | None) -> RewriteOptions:
        """Return the options with the kind of device named; `gpu` is whether a cluster has a GPU."""
        if options.device != "auto" or options.server:
            return options
        return replace(options, device="gpu" if gpu is not False and Rewriting.on_gpu(options) else "cpu")

    @staticmethod
    def on_gpu(options: RewriteOptions) -> bool:
        if options.server or options.gpu_layers == 0 or options.device == "cpu":
            return False
        return options.device == "gpu" or Rewriting.gpu_found()

    @staticmethod
    def gpu_found() -> bool:
        from handdata.texts.llama import gpu_supported

        return gpu_supported()

    def __init__(self, options: RewriteOptions) -> None:
        self._options = options
        self._prompt = read_prompt(prompt_text(options), options.prompt or "prompts/rewrite.txt")
        self._model = load_model(options)
        self._remarked = False  # on a shard of which nearly all first drafts failed

    def __call__(self, columns: Columns) -> Columns:
        """Take `caption` and `gesture`; return `text`, `rewrite`, `draft_checks` and `reason`."""
        pairs = list(zip(columns["caption"], columns["gesture"], strict=True))
        distinct = list(dict.fromkeys(pairs))
        texts = dict(zip(distinct, rewrite(distinct, self._model, self._prompt, self._options), strict=True))
        rows = [texts[pair] for pair in pairs]
        remark = _common_failure([row.first for row in rows if row.first is not None], self._model.name)
        if remark and not self._remarked:
            print(f"handdata: {remark}", file=sys.stderr)
        self._remarked = self._remarked or bool(remark)
        return {
            "text": [row.text for row in rows],
            "rewrite": [row.rewrite for row in rows],
            "draft_checks": [row.failed for row in rows],
            "reason": [None if row.text else "text-impossible" for row in rows],
        }

    def close(self) -> None:
        self._model.close()

    @staticmethod
    def summary(build: Path, options: RewriteOptions) -> str:
        """Return how a build's texts were made, and the failures of captions and drafts, as lines for people."""
        paths = sorted((build / stage_named("rewrite").columns).glob("*.parquet"))
        tables = [read_table(path, columns=["rewrite", "draft_checks"]) for path in paths]
        rows = [row for table in tables if table is not None for row in table.to_pylist()]
        ways = Counter(row["rewrite"] or "without text" for row in rows)
        failed = Counter(name for row in rows for name in row["draft_checks"] or ())
        model = options.model if options.server else Path(options.model).stem
        counts = ", ".join(f"{count:,} {way}" for way, count in ways.most_common())
        lines = [f"  {count:>6,}  {name}" for name, count in failed.most_common()]
        return "\n".join([f"{len(rows):,} texts by {model}: {counts}", *lines])


def rewrite(pairs: list[tuple[str, str]], model: ChatModel, prompt: Prompt, options: RewriteOptions) -> list[Text]:
    """Return a text without failures for each (caption, gesture), or no text where none is possible.

    The pairs should be distinct. All first attempts are sent together, then all second ones.
    """
    texts = [Text() for _ in pairs]
    pending: dict[int, tuple[str, str]] = {}  # by index: the rejected draft, and its failures as a sentence
    for place, (caption, gesture) in enumerate(pairs):
        failed = failures(caption, gesture, caption)
        texts[place].failed += [f"caption:{name}" for name in failed]
        if failed:
            pending[place] = ("", "")
        else:
            texts[place].text, texts[place].rewrite = caption, "kept"
    conversation = Conversation(model, options.max_tokens)
    for k in range(options.retries + 1):
        if not pending:
            break
        asks = [_ask(pairs[place], k, pending[place], prompt, options) for place in pending]
        answers = conversation.answers(asks)
        for place, answer in zip(list(pending), answers, strict=True):
            caption, gesture = pairs[place]
            draft = answer.text
            failed = judge(caption, gesture, answer)
            if k == 0:
                texts[place].first = failed
            if failed:
                texts[place].failed += [f"draft:{name}" for name in failed]
                pending[place] = (draft, explain(failed, gesture))
            else:
                texts[place].text, texts[place].rewrite = draft, "llm"
                del pending[place]
    for place in pending:
        texts[place].text = splice(*pairs[place])
        texts[place].rewrite = "template" if texts[place].text else None
    for text in texts:
        text.failed = list(dict.fromkeys(text.failed))
    return texts


def judge(caption: str, gesture: str, answer: Answer) -> dict[str, Evidence]:
    """Return the failures of a cleaned answer: how it stopped, or the checks."""
    if answer.reasoned and (answer.stop == "length" or not answer.text):
        return {"reasoning": ()}
    if answer.stop in _STOPS:
        return {_STOPS[answer.stop]: ()}
    return failures(caption, gesture, answer.text)


def _common_failure(drafts: list[dict[str, Evidence]], model: str) -> str:
    """Return a sentence if nearly all first drafts of a shard fail for one reason, else an empty text."""
    counts = Counter(name for failed in drafts for name in failed)
    name = max(counts, key=lambda name: (counts[name], name in DRAFT_FAILURES), default="")
    if len(drafts) < _MANY or counts[name] < _NEARLY_ALL * len(drafts):
        return ""
    evidence = Counter(word for failed in drafts for word in failed.get(name, ()))
    most = ", ".join(word for word, _ in evidence.most_common(3))
    reason = _REMEDIES.get(name) or FAILURES[name].format(evidence=f"{most}, and so on", phrase="")
    return f"{counts[name]} of {len(drafts)} first drafts of {model} failed for one reason, {name}: {reason}"


def load_model(options: RewriteOptions) -> ChatModel:
    """Load the model of the options: a client of a server, or llama.cpp."""
    if options.server:
        if options.template:
            option = flag("rewrite", "template")
            raise UserError(f"a server has its own chat template: leave out {option}, or {flag('rewrite', 'server')}")
        from handdata.texts.openai_server import ServerModel

        return ServerModel(
            options.server, options.model, options.key_variable, parallel=options.parallel, timeout=options.timeout
        )
    from handdata.texts.llama import LlamaModel, idle_gpu

    remark = idle_gpu()
    if remark:
        print(f"handdata: {remark}", file=sys.stderr)
    path, template = model_file(options.model), template_text(options)
    layers = 0 if options.device == "cpu" else options.gpu_layers
    return LlamaModel(path, options.parallel, options.threads, layers, template)


def model_file(model: str) -> Path:
    """Return the GGUF file of the option `model`: a path, or the name of a model file of `handdata assets`."""
    if model in assets.assets():
        return assets.path(model)
    if not Path(model).is_file():
        raise UserError(
            f"model file {model} does not exist: give a GGUF file with {flag('rewrite', 'model')}, for instance of "
            "Meta-Llama-3-8B-Instruct (smollm2-135m is a small one for trials)"
        )
    return Path(model)


def model_hash(model: str) -> str:
    """Return the sha256 of the GGUF file."""
    path = model_file(model)
    facts = path.stat()
    return _sha256(path, facts.st_size, facts.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    return sha256_of(path)


def prompt_text(options: RewriteOptions) -> str:
    """Return the text of the prompt file."""
    path = Path(options.prompt) if options.prompt else resource("prompts/rewrite.txt")
    return read_text(path, flag("rewrite", "prompt"))


def template_text(options: RewriteOptions) -> str | None:
    """Return the text of the chat template, None for that of the model."""
    return read_text(Path(options.template), flag("rewrite", "template")) if options.template else None


def seed_of(seed: int, caption: str, gesture: str, k: int) -> int:
    """Return the seed of attempt k: 32 bits of sha256 of (seed, caption, gesture, k)."""
    digest = hashlib.sha256(json.dumps([seed, caption, gesture, k]).encode()).digest()
    return int.from_bytes(digest[:4], "little")


def _ask(pair: tuple[str, str], k: int, rejected: tuple[str, str], prompt: Prompt, options: RewriteOptions) -> Ask:
    caption, gesture = pair
    phrase = gestures()[gesture].phrase
    if k == 0:
        return Ask(prompt.messages(caption, phrase))
    draft, problem = rejected
    forced = phrase_grammar(phrase) if options.grammar and k == options.retries else None
    messages = prompt.retry_messages(caption, phrase, draft[:300], problem)
    return Ask(messages, options.temperature, seed_of(options.seed, caption, gesture, k), forced)


def phrase_grammar(phrase: str) -> str:
    """Return the GBNF grammar of one line that contains the phrase."""
    return f'root ::= [^\\n]+ "{phrase}" [^\\n]*'
