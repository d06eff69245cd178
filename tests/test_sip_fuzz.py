"""The targets of scripts/fuzz with what hypothesis thinks of, and with every seed and what is near it."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sip_targets import TARGETS, seeds


@pytest.mark.parametrize("target", TARGETS)
def test_every_seed_is_borne_and_so_is_what_is_near_it(target: str) -> None:
    random = Random(target)
    for seed in seeds(target):
        TARGETS[target](seed)
        for _ in range(3):
            near = bytearray(seed or b" ")
            at = random.randrange(len(near))
            near[at : at + random.choice((0, 1, 4))] = random.randbytes(random.choice((0, 1, 4)))
            TARGETS[target](bytes(near))


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=400))
def test_any_bytes_are_borne(target: str, data: bytes) -> None:
    TARGETS[target](data)
