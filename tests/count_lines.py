"""Lines of code without docstrings, comments and blank lines: `python tests/count_lines.py [FOLDER] [--by-folder]`.

A line counts if any token of the program stands on it. Docstrings are the strings that are statements of their own, wherever
they stand, since the package also documents constants and fields by a string below them. A statement over three lines counts
three times.
"""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def code_lines(source: str) -> int:
    """The number of lines of a module that hold code."""
    prose = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    code = {line for token in tokens if token.type not in NO_CODE for line in range(token.start[0], token.end[0] + 1)}
    return len(code - prose)


def counts(folder: Path) -> Counter[str]:
    """The lines of code in each subfolder of `folder`; modules of the folder itself are under its own name."""
    found: Counter[str] = Counter()
    for path in sorted(folder.rglob("*.py")):
        inside = path.relative_to(folder).parts
        found[inside[0] if len(inside) > 1 else folder.name] += code_lines(path.read_text(encoding="utf-8"))
    return found


def main(arguments: list[str] | None = None) -> None:
    """Print the count of a folder, and of each folder in it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent.parent / "subpop")
    parser.add_argument("--by-folder", action="store_true", help="also print the count of each subfolder")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is not a folder; give one that holds Python modules")
    found = counts(options.folder.resolve())
    for name, lines in sorted(found.items()) if options.by_folder else ():
        print(f"{lines:7,}  {name}")
    print(f"{sum(found.values()):7,}  total")


if __name__ == "__main__":
    main()
