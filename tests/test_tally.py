"""What is measured of a call when it is over."""

from __future__ import annotations

import time

import pytest

from mediaserver.metrics import Metrics
from mediaserver.tally import Tally


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_a_call_that_nobody_confirmed_is_counted_and_not_timed() -> None:
    metrics = Metrics()
    tally = Tally(metrics)
    assert tally.finish("remote_cancel", 487, first_sound_at=None, media=None) == {}
    assert not tally.confirmed
    assert tally.first_speech_ms is None
    assert sample(metrics, "sip_call_first_speech_ms_count") == 0


def test_speech_that_began_before_the_ack_made_nobody_wait() -> None:
    metrics = Metrics()
    tally = Tally(metrics)
    before = time.monotonic()
    tally.answer()
    tally.confirm()
    facts = tally.finish("local_bye", None, first_sound_at=before, media={"mos": 4.2, "lost": 0})
    assert tally.confirmed
    assert tally.first_speech_ms == 0.0
    assert facts == {"seconds": facts["seconds"], "first_speech_ms": 0.0, "mos": 4.2, "lost": 0}
    assert sample(metrics, "sip_call_setup_ms_count") == 1
    assert sample(metrics, "sip_call_first_speech_ms_count") == 1
    assert sample(metrics, "rtp_call_mos_sum") == pytest.approx(4.2)


def test_quality_that_is_not_known_is_not_averaged() -> None:
    metrics = Metrics()
    facts = Tally(metrics).finish("local_bye", None, first_sound_at=None, media={"mos": ""})
    assert facts == {"mos": ""}
    assert sample(metrics, "rtp_call_mos_count") == 0
