"""Family of recipes, flags and text files of users: odd values, other encodings, names with other meanings."""

import random
from pathlib import Path

from tests.damage import damages
from tests.damage.trial import Trial

NUMBERS = [
    "-1", "0", "1", "1001", str(2**31), str(2**63), str(2**64), "-" + "9" * 30, "nan", "inf", "1e400", "0.5", "x", "",
    "\u0663", "1_000", " 1", "0x10",
]  # fmt: skip
WORDS = [
    "", " ", "x", "call", "hf:", "hf:a", "hf:a/b@", "hf:a/b@\u00fc", "hf:../..", "/missing", "/dev/null", ".", "..",
    "/proc/self/mem", "\ud800", "\u2028", "a" * 300, "a/" * 2000, "[1]", "a::b", "{gesture}", "{x}", "{", "C:\\x", "~",
    "-", "--", "http://[::1", "file:///etc", "s3://a/b", "*", "?", "\u00fc", "x\ny", "call:test", ":test", "test:",
    "palm", "all", "no_gesture",
]  # fmt: skip
TEXTS = [
    "b\u00e4r\n".encode("latin-1"), "call\n".encode("utf-16"), b"\xef\xbb\xbfa hand\n", b"", b"\n\n\n", b"\0\0\0",
    b"\xff" * 50, b"a\rb\rc", "a\u2028b\n".encode(), b"x" * 100_000, b"a\n" * 5000, "\U0001f44b\n".encode(),
    b"\x1b[31mred\n", b"[]", b"{}", b'{"a": 1}', b'{"metrics": []}',
]  # fmt: skip

# Commands with one open value: `@` is a number, `#` a word, `%` a text file; FIXTURE and NEW are
# folders, COPY and RUN copies of the build and of the run.
COMMANDS = """
handdata plan #
handdata plan FIXTURE/recipe.toml --offline --select.train @
handdata build FIXTURE/recipe.toml --out NEW/b --dry-run --select.seed @
handdata build FIXTURE/recipe.toml --out NEW/b --until select --select.train @
handdata build FIXTURE/recipe.toml --out NEW/b --until select --select.spare @
handdata build FIXTURE/recipe.toml --out NEW/b --until select --select.max-per-subject @
handdata build FIXTURE/recipe.toml --out NEW/b --until select --select.gestures #
handdata build FIXTURE/recipe.toml --out NEW/b --until select --select.seed @
handdata build FIXTURE/recipe.toml --out NEW/b --until facts --image.short-side @
handdata build FIXTURE/recipe.toml --out NEW/b --until facts --image.quality @
handdata build FIXTURE/recipe.toml --out NEW/b --until facts --fetch.connections @
handdata build FIXTURE/recipe.toml --out NEW/b --until facts --fetch.largest @
handdata build FIXTURE/recipe.toml --out NEW/b --until facts --workers @
handdata build FIXTURE/recipe.toml --out NEW/b --until select --source.images #
handdata build FIXTURE/recipe.toml --out NEW/b --until select --source.annotations #
handdata build FIXTURE/recipe.toml --out NEW/b --until #
handdata build FIXTURE/recipe.toml --out NEW/# --until select
handdata build % --out NEW/b --until select
handdata plan % --offline
handdata status #
handdata status FIXTURE
handdata review COPY --apply %
handdata drop COPY --subject #
handdata drop COPY --image-id #
handdata publish COPY --to NEW/#
handdata evaluate #
handdata evaluate FIXTURE/published --split #
handdata evaluate FIXTURE/build
handdata render --out NEW/r --train @ --dry-run
handdata render --out NEW/r --size @ --dry-run
handdata render --out NEW/r --gestures # --dry-run
handdata fetch --manifest % --out NEW/b
handdata landmarks COPY --hands @
handdata landmarks COPY --min-side @
handdata check COPY --in-box @
handdata assemble COPY --near-duplicate @
handdata assemble COPY --file-bytes @
handdata assets #
handdata #
handtrain #
handtrain train --dataset # --gesture call --base FIXTURE/base --out NEW/t --dry-run
handtrain train --dataset FIXTURE/published --gesture # --base FIXTURE/base --out NEW/t --dry-run
handtrain train --dataset FIXTURE/published --gesture call --base # --out NEW/t --dry-run
handtrain train --dataset FIXTURE/published --gesture call --base FIXTURE/base --out NEW/t --dry-run --lam @
handtrain train --dataset FIXTURE/published --gesture call --base FIXTURE/base --out NEW/t --dry-run --seed @
handtrain train --dataset FIXTURE/published --gesture call --base FIXTURE/base --out NEW/t --dry-run --unet-lr @
handtrain train --dataset FIXTURE/published --gesture call --base FIXTURE/base --out NEW/t --dry-run --resolution @
handtrain train --dataset FIXTURE/published --gesture call --base FIXTURE/base --out NEW/t --dry-run --limit @
handtrain train --dataset FIXTURE/published --gesture call --base FIXTURE/base --out NEW/t --dry-run --lora-rank @
handtrain train --dataset FIXTURE/published --gesture call --base FIXTURE/base --out NEW/t --dry-run --unet-epochs @
handtrain train --dataset FIXTURE/published --gesture call --base FIXTURE/base --out NEW/t --dry-run --device #
handtrain train --dataset FIXTURE/published --gesture call --base FIXTURE/base --out NEW/t --dry-run --preset #
handtrain train --dataset FIXTURE/published --gesture call --base FIXTURE/base --out NEW/# --dry-run
handtrain generate --model FIXTURE/model --prompts % --out NEW/g --steps 1 --limit 2
handtrain generate --model FIXTURE/model --prompt # --out NEW/g --steps 1
handtrain generate --model FIXTURE/model --prompts # --out NEW/g --steps 1
handtrain generate --model # --prompt hand --out NEW/g --steps 1
handtrain generate --model FIXTURE/run --prompt hand --out NEW/g --steps 1
handtrain generate --model FIXTURE/model --prompt hand --out NEW/g --steps @ --dry-run
handtrain generate --model FIXTURE/model --prompt hand --out NEW/g --steps 1 --mu @
handtrain generate --model FIXTURE/model --prompt hand --out NEW/g --steps 1 --seeds @
handtrain generate --model FIXTURE/model --prompt hand --out NEW/g --steps 1 --guidance @
handtrain generate --model FIXTURE/model --prompt hand --out NEW/g --steps 1 --eta @
handtrain generate --model FIXTURE/model --prompt hand --out NEW/g --steps 1 --batch @
handtrain generate --model FIXTURE/model --prompt hand --out NEW/g --steps 1 --resolution @ --dry-run
handtrain evaluate --real # --fake FIXTURE/images --clip none --bootstrap 2
handtrain evaluate --real FIXTURE/published:test --fake # --clip none --bootstrap 2
handtrain evaluate --real FIXTURE/published:test --fake FIXTURE/images --clip none --variants standard --bootstrap @
handtrain evaluate --real FIXTURE/published:# --fake FIXTURE/images --clip none --variants standard --bootstrap 2
handtrain report # --out NEW/page.html
handtrain report FIXTURE/run --out NEW/page.html --pictures @
handtrain report FIXTURE/run --out NEW/page.html --title #
handtrain publish --model # --to NEW/m
handtrain publish --model RUN --to NEW/#
handtrain publish --model RUN --to NEW/m --metrics %
handtrain import-checkpoint --checkpoint % --base FIXTURE/base --gesture call --out NEW/i
handtrain reproduce --dataset FIXTURE/published --base FIXTURE/base --out NEW/p --gestures # --dry-run
""".strip().splitlines()
VARIATIONS = 8


class Flags:
    """The family: `NUMBER VARIATION`, a line of COMMANDS with an odd value, or `recipe NUMBER`, a damaged recipe."""

    def cases(self, fixture: Path) -> list[str]:
        """Return the names of all cases."""
        open_lines = [number for number, line in enumerate(COMMANDS) if any(mark in line for mark in "@#%")]
        names = [f"{number} {variation}" for number in open_lines for variation in range(VARIATIONS)]
        names += [f"{number} 0" for number in range(len(COMMANDS)) if number not in open_lines]
        return [*names, *(f"recipe {number}" for number in range(80))]

    def run(self, trial: Trial, name: str) -> None:
        """Run the command with its odd value."""
        first, number = name.split(" ")
        if first == "recipe":
            recipe = trial.copy("recipe.toml")
            recipe.write_text(recipe.read_text().replace('"world/', f'"{trial.fixture}/world/'))
            damage = ("types", "flipped", "half", "encoded", "swapped", "types", "types")[int(number) % 7]
            damages.DAMAGES[damage](recipe, trial.chance)
            trial.run("handdata", "build", recipe, "--out", trial.folder / "b", "--until", "select")
            return
        line = COMMANDS[int(first)]
        program, *words = line.split(" ")
        trial.run(program, *(_filled(trial, word) for word in words))


def _filled(trial: Trial, word: str) -> str:
    chance: random.Random = trial.chance
    if word in ("COPY", "RUN"):
        return str(trial.copy("build" if word == "COPY" else "run"))
    if "%" in word:
        path = trial.folder / "given.txt"
        path.write_bytes(chance.choice(TEXTS))
        word = word.replace("%", str(path))
    word = word.replace("FIXTURE", str(trial.fixture)).replace("NEW", str(trial.folder / "new" / "folder"))
    return word.replace("@", chance.choice(NUMBERS)).replace("#", chance.choice(WORDS))


FAMILY = Flags()
