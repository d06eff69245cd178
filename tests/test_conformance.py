"""The conformance table says what the markers of the tests say, and nothing else."""

from __future__ import annotations

import pytest

from tests.conformance import COMMAND, TABLE, Misplaced, Requirement, collected, proofs, table

STACKED = """
@pytest.mark.conformance("RFC 3261", "9.1", "no CANCEL "
    "comes early")
@pytest.mark.conformance("RFC 3261", "9.2", "a CANCEL gets 200")
@pytest.mark.parametrize("n", [1, 2, 3])
async def test_cancel(n): ...

@rule
@pytest.mark.conformance("RFC 3550", "A.1", "valid")
def a_rule(open_rig): ...

class TestThem:
    @pytest.mark.conformance("RFC 3261", "9.1", "no CANCEL comes early")
    def test_it(self): ...
"""


def test_the_table_is_what_the_markers_say() -> None:
    assert TABLE.read_text(encoding="utf-8") == table(collected()), f"{TABLE.name} is out of date: {COMMAND}"


def test_markers_stack_and_a_parametrised_test_counts_once() -> None:
    assert list(proofs(STACKED, "t.py")) == [
        (Requirement("RFC 3261", "9.1", "no CANCEL comes early"), "t.py::test_cancel"),
        (Requirement("RFC 3261", "9.2", "a CANCEL gets 200"), "t.py::test_cancel"),
        (Requirement("RFC 3550", "A.1", "valid"), "t.py::a_rule"),
        (Requirement("RFC 3261", "9.1", "no CANCEL comes early"), "t.py::TestThem::test_it"),
    ]


def test_rows_are_in_the_order_of_rfc_and_section_and_name_each_test_once() -> None:
    rows = [
        Requirement("ITU-T G.711", "3", "64*a"),
        Requirement("RFC 10000", "1", "b"),
        Requirement("RFC 3261", "17.1.1.2", "c"),
        Requirement("RFC 3261", "A.1", "d"),
        Requirement("RFC 3261", "9.10", "e"),
        Requirement("RFC 3261", "9.2", "f"),
        Requirement("RFC 768", "1", "g"),
    ]
    lines = table({row: ["t.py::z", "t.py::a", "t.py::z"] for row in rows}).splitlines()
    assert [line.split(" | ")[1] for line in lines if "t.py" in line] == [*("g", "f", "e", "c", "d", "b", r"64\*a")]
    assert lines[-1] == r"| 3 | 64\*a | `t.py::a`, `t.py::z` |"
    assert "| [A.1](https://www.rfc-editor.org/rfc/rfc3261#appendix-A.1) | d | `t.py::a`, `t.py::z` |" in lines
    assert [line for line in lines if line.startswith("## ")] == [
        *("## RFC 768", "## RFC 3261", "## RFC 10000", "## ITU-T G.711")
    ]


@pytest.mark.parametrize(
    "source",
    [
        '@pytest.mark.conformance("RFC 1", "1", "x")\ndef helper(): ...',
        '@pytest.mark.conformance("RFC 1", "1", "x")\nclass TestIt: ...',
        'pytestmark = pytest.mark.conformance("RFC 1", "1", "x")',
        '@pytest.mark.conformance("RFC 1", "1")\ndef test_it(): ...',
        '@pytest.mark.conformance("RFC 1", 1, "x")\ndef test_it(): ...',
        '@pytest.mark.conformance("RFC 1", "1", text)\ndef test_it(): ...',
        '@pytest.mark.conformance("RFC 1", "1", requirement="x")\ndef test_it(): ...',
        '@pytest.mark.conformance("RFC1", "1", "x")\ndef test_it(): ...',
        '@pytest.mark.conformance("RFC 1", "section 1", "x")\ndef test_it(): ...',
        '@pytest.mark.conformance("RFC 1", "1", "x.")\ndef test_it(): ...',
        '@pytest.mark.conformance("RFC 1", "1", "")\ndef test_it(): ...',
        '@pytest.mark.conformance("RFC 1", "1", "a | b")\ndef test_it(): ...',
    ],
)
def test_a_marker_that_the_table_cannot_take_in_is_an_error(source: str) -> None:
    with pytest.raises(Misplaced, match=r"^t\.py:\d: "):
        list(proofs(source, "t.py"))
