"""The conformance table, docs/CONFORMANCE.md, made from the markers of the tests: python -m tests.conformance

A test that proves what a standard requires says so above itself, in one marker for each requirement:

    @pytest.mark.conformance("RFC 3261", "9.1", "no CANCEL is sent before a provisional response")

Markers of several tests that say the same are one row. They are read from the source, so that nothing has to be
installed, and a test that is skipped where its peer is missing counts all the same; hence their arguments are literals.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "CONFORMANCE.md"
COMMAND = "python -m tests.conformance"
MARKER = "pytest.mark.conformance"
# A rule of tests/rtp_rules.py is a test as well: it runs over each implementation.
RULE = "rule"
STANDARD = re.compile(r"RFC (\d+)|ITU-T [A-Z]\.\d+")
SECTION = re.compile(r"(\d+|[A-Z])(\.\d+)*")

PREAMBLE = f"""\
# Conformance

What the standards require, and the tests that prove it. Made from the markers of the tests by
`{COMMAND}`; a test fails when the two differ. CONTRIBUTING.md says how to mark a test.
"""


class Requirement(NamedTuple):
    standard: str
    section: str
    text: str

    @property
    def order(self) -> tuple[object, ...]:
        """RFCs by number, then the rest; sections as their numbers count, appendices behind them."""
        number = STANDARD.fullmatch(self.standard)
        assert number is not None
        parts = [(part.isalpha(), int(part) if part.isdigit() else ord(part)) for part in self.section.split(".")]
        return (number[1] is None, int(number[1] or 0), self.standard, parts, self.text)


class Misplaced(Exception):
    """A marker that the table cannot take in."""


def proofs(source: str, path: str) -> Iterator[tuple[Requirement, str]]:
    """Each requirement that a test of the module claims to prove, beside the test. Raises Misplaced."""
    tree = ast.parse(source)
    markers = {id(node): node for node in ast.walk(tree) if isinstance(node, ast.Call) and _name(node.func) == MARKER}
    for name, function in _functions(tree):
        decorators = [node for node in function.decorator_list if id(node) in markers]
        is_test = function.name.startswith("test_") or RULE in map(_name, function.decorator_list)
        for node in decorators if is_test else ():
            yield _requirement(markers.pop(id(node)), path), f"{path}::{name}"
    for node in markers.values():
        raise Misplaced(f"{path}:{node.lineno}: {MARKER} stands above a test function and nowhere else")


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"{node.name}::{method.name}", method


def _requirement(marker: ast.Call, path: str) -> Requirement:
    words = [argument.value for argument in marker.args if isinstance(argument, ast.Constant)]
    if len(words) != 3 or len(marker.args) != 3 or marker.keywords or not all(isinstance(word, str) for word in words):
        raise Misplaced(f"{path}:{marker.lineno}: {MARKER} takes three strings: standard, section, requirement")
    requirement = Requirement(*map(str, words))
    if not (STANDARD.fullmatch(requirement.standard) and SECTION.fullmatch(requirement.section)):
        raise Misplaced(f"{path}:{marker.lineno}: not like 'RFC 3261' and '17.1.1.2': {requirement[:2]}")
    if not requirement.text or requirement.text.endswith(".") or set(requirement.text) & set("|\n"):
        raise Misplaced(f"{path}:{marker.lineno}: a requirement is one phrase without a full stop: {requirement.text}")
    return requirement


def _name(node: ast.expr) -> str:
    return ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""


def table(proven: dict[Requirement, list[str]]) -> str:
    """The whole document."""
    lines = [PREAMBLE.rstrip("\n")]
    standard = ""
    for requirement in sorted(proven, key=lambda requirement: requirement.order):
        if requirement.standard != standard:
            standard = requirement.standard
            lines += ["", f"## {standard}", "", "| section | requirement | proved by |", "|---|---|---|"]
        tests = ", ".join(f"`{test}`" for test in sorted(set(proven[requirement])))
        text = requirement.text.replace("*", "\\*")
        lines.append(f"| {_link(requirement)} | {text} | {tests} |")
    return "\n".join(lines) + "\n"


def _link(requirement: Requirement) -> str:
    number = STANDARD.fullmatch(requirement.standard)
    if number is None or number[1] is None:
        return requirement.section
    part = "section" if requirement.section[0].isdigit() else "appendix"
    return f"[{requirement.section}](https://www.rfc-editor.org/rfc/rfc{number[1]}#{part}-{requirement.section})"


def collected() -> dict[Requirement, list[str]]:
    """Every requirement that a test of this folder claims to prove, and those tests."""
    proven: dict[Requirement, list[str]] = {}
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        for requirement, test in proofs(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))):
            proven.setdefault(requirement, []).append(test)
    return proven


def main() -> None:
    try:
        TABLE.write_text(table(collected()), encoding="utf-8")
    except Misplaced as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
