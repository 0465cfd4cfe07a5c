"""Damage of base models: seeded changes of one file of a diffusers folder, and whether it may still be accepted.

    python -m tests.handtrain.hostile_bases 300

tries that many and prints each exception that is not one sentence.
"""

import json
import random
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 7, 10**9, 10**40, 0.5, float("nan"), float("inf"), "", "silu", "x" * 5000, [], [1], [None], {},
    [[1, 2], 3], {"a": {"b": 1}}, ["DownBlock2D"], "../../etc", "\ud800",
)  # fmt: skip
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 3438167534\n"


def damage(folder: Path, seed: int) -> str:
    """Change one file of a folder as the seed decides; return what was done."""
    rng = random.Random(seed)
    file = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    kinds = [*ANY, *(WEIGHTS if file.suffix == ".safetensors" else TEXTS)]
    kind = rng.choice(kinds)
    kind(file, rng)
    return f"{kind.__name__} {file.relative_to(folder)}"


def missing(file: Path, rng: random.Random) -> None:
    file.unlink()


def empty(file: Path, rng: random.Random) -> None:
    file.write_bytes(b"")


def half(file: Path, rng: random.Random) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: rng.randrange(1, len(data))])


def loop(file: Path, rng: random.Random) -> None:
    file.unlink()
    file.symlink_to(file.name)


def a_folder(file: Path, rng: random.Random) -> None:
    file.unlink()
    file.mkdir()


def flipped(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    for _ in range(8):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def pointer(file: Path, rng: random.Random) -> None:
    file.write_bytes(POINTER)


def other_encoding(file: Path, rng: random.Random) -> None:
    text = file.read_text(encoding="utf-8")
    file.write_bytes(("é" + text).encode("latin-1", "replace") if rng.random() < 0.5 else text.encode("utf-16"))


def with_bom(file: Path, rng: random.Random) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())


def other_json(file: Path, rng: random.Random) -> None:
    file.write_text(rng.choice(["[]", "null", "3", '"a"', "[" * 100_000, '{"a": ' * 50_000, "{}", '{"a": NaN}']))


def changed_value(file: Path, rng: random.Random) -> None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return half(file, rng)
    target = content
    while isinstance(target, dict) and target:
        key = rng.choice(sorted(target))
        if isinstance(target[key], dict) and target[key] and rng.random() < 0.8:
            target = target[key]
            continue
        target[key] = rng.choice(VALUES)
        break
    file.write_text(json.dumps(content))
    return None


def lost_key(file: Path, rng: random.Random) -> None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return half(file, rng)
    if isinstance(content, dict) and content:
        del content[rng.choice(sorted(content))]
    file.write_text(json.dumps(content))
    return None


def other_header(file: Path, rng: random.Random) -> None:
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    change = rng.randrange(6)
    if change == 0:
        del header[name]
    elif change == 1:
        header[f"more.{name}"] = header.pop(name)
    elif change == 2:
        header[name]["shape"] = rng.choice([[], [2**40], [-1], None, "a", [1.5], [*header[name]["shape"][::-1], 1]])
    elif change == 3:
        header[name]["dtype"] = rng.choice(["F64", "I8", "F8_E4M3", "zzz", None, 3])
    elif change == 4:
        header[name]["data_offsets"] = rng.choice([[0, 2**60], [5], None, [9, 1], [-8, 0], ["a", "b"]])
    else:
        header = rng.choice([[], None, {"__metadata__": {}}, {"a": 1}])
    written = json.dumps(header).encode()
    start = rng.choice([len(written), len(written), 2**63, 3]).to_bytes(8, "little")
    file.write_bytes(start + written + data[8 + length :])


def not_numbers(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[-64:] = b"\xff" * 64
    file.write_bytes(data)


ANY: tuple[Callable[[Path, random.Random], None], ...] = (missing, empty, half, loop, a_folder, flipped, pointer)
TEXTS = (other_encoding, with_bom, other_json, changed_value, changed_value, changed_value, lost_key, lost_key)
WEIGHTS = (other_header, other_header, other_header, not_numbers)


def use(folder: Path) -> str:
    """Open a base and load all of it; return `accepted`, or the sentence with which it was refused."""
    from handdata.errors import UserError
    from handtrain.model.base import open_base

    try:
        base = open_base(folder)
        for load in (base.denoiser, base.vae, base.text_encoders, base.tokenizers, base.safety_checker):
            load()
    except UserError as error:
        sentence = str(error)
        assert "\n" not in sentence, sentence
        assert len(sentence) < 700, sentence
        return sentence
    return "accepted"


def main(count: int, first: int = 0) -> None:
    """Try damages and print the exceptions."""
    from tests.handtrain.tiny import write_base

    with tempfile.TemporaryDirectory() as place:
        base = write_base(Path(place) / "base", safety_checker=True)
        failures, accepted = 0, []
        for seed in range(first, first + count):
            copy = Path(shutil.copytree(base, Path(place) / "copy"))
            done = damage(copy, seed)
            try:
                outcome = use(copy)
            except Exception:  # noqa: BLE001 - every exception is a finding
                failures += 1
                print(seed, done)
                traceback.print_exc()
            else:
                print(seed, done, "->", outcome.replace(place, ""))
                accepted += [f"{seed} {done}"] if outcome == "accepted" else []
            shutil.rmtree(copy)
        print(f"{count} tries, {failures} exceptions, {len(accepted)} accepted:", *accepted, sep="\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
