"""axe-core, which judges a page's accessibility: one version of it from npm, checked, and kept under build/."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from tests.chromium import Page

VERSION = "4.14.1"
SHA512 = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
KEPT = Path(__file__).parents[1] / "build" / f"axe-core-{VERSION}.tgz"
# What WCAG 2.2 asks for at the levels A and AA, and what axe's authors advise beside it.
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")


@functools.cache
def script() -> str:
    """The library. Skips the test where it cannot be had, fails it where it is another."""
    if not KEPT.exists():
        _fetch()
    packed = KEPT.read_bytes()
    assert base64.b64encode(hashlib.sha512(packed).digest()).decode() == SHA512, f"{KEPT} is not axe-core {VERSION}"
    with tarfile.open(KEPT) as package:
        file = package.extractfile("package/axe.min.js")
        assert file is not None
        return file.read().decode()


def _fetch() -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("axe-core comes from npm, which is not installed")
    KEPT.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=KEPT.parent) as directory:
        packing = subprocess.run(
            [npm, "pack", "--silent", f"axe-core@{VERSION}"], cwd=directory, capture_output=True, text=True, check=False
        )
        if packing.returncode:
            pytest.skip(f"npm cannot fetch axe-core: {packing.stderr.strip()[:200]}")
        (Path(directory) / KEPT.name).replace(KEPT)  # at once, because tests run side by side


async def violations(page: Page) -> list[str]:
    """What is wrong with the page as it is now: the rule, the element, and why."""
    # The page's policy knows no script of ours; the protocol runs it all the same, once per document.
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(script() + "; undefined")
    options = json.dumps({"runOnly": {"type": "tag", "values": RULES}, "resultTypes": ["violations"]})
    found = await page.evaluate(
        f"axe.run(document, {options}).then(({{violations}}) => violations.flatMap(({{id, nodes}}) => "
        "nodes.map(({target, failureSummary}) => `${id}: ${target}: ${failureSummary}`)))"
    )
    return list(found)
