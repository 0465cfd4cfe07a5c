"""Print the size of the code: modules and code lines of each folder, and the longest files and functions.

    python -m benchmarks.structure

Code lines are lines that are not blank and hold no comment or docstring alone.
"""

import argparse
import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("handdata", "handtrain")


def code_lines(text: str) -> int:
    """Return how many lines of a module are code."""
    documentation: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                documentation.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    layout = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in layout:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - documentation)


def sizes() -> Iterator[str]:
    """Yield a line per folder with its modules and code lines, the total, and the longest files and functions."""
    files, functions, total = [], [], 0
    for folder in sorted({path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}):
        texts = {path: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))}
        lines = sum(map(code_lines, texts.values()))
        total += lines
        modules = sum(path.name not in ("__init__.py", "__main__.py") for path in texts)
        yield f"{folder.relative_to(ROOT)!s:<24}{modules:>4} modules{lines:>7,} code lines"
        for path, text in texts.items():
            files.append((text.count("\n"), str(path.relative_to(ROOT))))
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    length = (node.end_lineno or node.lineno) - node.lineno + 1
                    functions.append((length, f"{path.relative_to(ROOT)}:{node.name}"))
    yield f"{'together':<24}{'':>12}{total:>7,} code lines"
    yield "longest files: " + ", ".join(f"{name} {length}" for length, name in sorted(files, reverse=True)[:3])
    yield "longest functions: " + ", ".join(f"{name} {length}" for length, name in sorted(functions, reverse=True)[:3])


def main() -> None:
    """Print the figures."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("\n".join(sizes()))


if __name__ == "__main__":
    main()
