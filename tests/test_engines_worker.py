"""Real worker processes, spoken to packet by packet."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import textwrap
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soxr

from engines import tone
from engines.profile import VoiceProfile
from engines.sentences import split
from engines.wire import Cancel, Chunk, Done, Failed, Hello, Ping, Pong, Stopped, packets
from tests.engines_support import (
    PRACTICE,
    RAW_HZ,
    Worker,
    children,
    is_gone,
    level,
    pauses_ms,
    piece,
    pitch_hz,
    share_at,
    started,
    worker,
)

HELLO = "Hello, this is a test of the system."


@pytest.fixture(scope="module")
def espeak() -> Iterator[tuple[Worker, Hello]]:
    with worker("espeak") as started:
        yield started


# What espeak-ng says about itself.


def test_the_hello_names_version_voices_variants_and_languages(espeak: tuple[Worker, Hello]) -> None:
    _, hello = espeak
    assert hello.version.startswith("espeak-ng 1.")
    assert (hello.ssml, hello.concurrency) == (True, 1)
    ids = [voice for voice, _, _ in hello.voices]
    assert len(ids) == len(set(ids)) > 100
    assert ("en-us", "English (America)", "en-us") in hello.voices
    assert "fo" not in ids  # its dictionary is not in the wheel
    assert {"f3", "m1", "linda"} <= set(hello.variants)
    assert {tag: hello.languages[tag] for tag in ("de", "en-gb", "pt-br", "no")} == {
        "de": "de",
        "en-gb": "en",
        "pt-br": "pt-br",
        "no": "nb",
    }


# The same text is the same sound.


def test_a_text_sounds_the_same_whatever_was_spoken_before(espeak: tuple[Worker, Hello]) -> None:
    one, _ = espeak
    first, _ = one.speak(piece(HELLO))
    one.speak(piece("Ein ganz anderer Satz!", voice="de", speed=1.7))
    one.speak(piece('<speak><prosody pitch="x-high" volume="loud">What?</prosody></speak>', ssml=True))
    again, ended = one.speak(piece(HELLO, id=7))
    assert ended == Done(id=7)
    assert np.array_equal(first, again)


def test_two_workers_make_the_same_sound(espeak: tuple[Worker, Hello]) -> None:
    with worker("espeak") as (other, _):
        assert np.array_equal(espeak[0].speak(piece(HELLO))[0], other.speak(piece(HELLO))[0])


def test_samples_that_were_delivered_before_are_skipped(espeak: tuple[Worker, Hello]) -> None:
    one, _ = espeak
    whole, _ = one.speak(piece(HELLO))
    for skip in (2, 1000, 2 * len(whole) - 2, 2 * len(whole)):
        rest, ended = one.speak(piece(HELLO, attempt=1, skip_bytes=skip))
        assert np.array_equal(rest, whole[skip // 2 :])
        assert isinstance(ended, Done)


# Cutting a text and resampling the pieces leave no trace.


def test_a_text_in_pieces_has_the_pauses_of_the_text_as_a_whole(espeak: tuple[Worker, Hello]) -> None:
    one, _ = espeak
    whole, _ = one.speak(piece(PRACTICE, rate_hz=RAW_HZ))
    texts = list(split(PRACTICE))
    assert len(texts) == 5
    parts = [one.speak(piece(text, rate_hz=RAW_HZ, last=text is texts[-1]))[0] for text in texts]
    expected = pauses_ms(whole, RAW_HZ, least_ms=100)
    found = pauses_ms(np.concatenate(parts), RAW_HZ, least_ms=100)
    assert len(found) == len(expected) >= 12
    for (start, length), (expected_start, expected_length) in zip(found, expected, strict=True):
        assert abs(start - expected_start) <= 20  # one period of the voice, here and there
        assert abs(length - expected_length) <= 2


def test_a_piece_cut_between_two_words_makes_no_pause(espeak: tuple[Worker, Hello]) -> None:
    one, _ = espeak
    between, _ = one.speak(piece("one two three ", last=False))
    comma, _ = one.speak(piece("one two three, ", last=False))
    last, _ = one.speak(piece("one two three "))
    assert len(between) == len(last)
    assert 100 <= (len(comma) - len(between)) / 8 <= 200


@pytest.mark.parametrize("rate_hz", [8000, 16000, 24000])
def test_resampling_piece_by_piece_is_resampling_the_whole(espeak: tuple[Worker, Hello], rate_hz: int) -> None:
    one, _ = espeak
    texts = list(split(PRACTICE))
    raw = [one.speak(piece(text, rate_hz=RAW_HZ, last=text is texts[-1]))[0] for text in texts]
    resampled = [one.speak(piece(text, rate_hz=rate_hz, last=text is texts[-1]))[0] for text in texts]
    for source, target in zip(raw, resampled, strict=True):
        assert np.abs(soxr.resample(source.astype(np.float32), RAW_HZ, rate_hz) - target).max() <= 0.5
    # On a common grid (441 samples at 22,050 Hz are 160 at 8,000) one stream over all of it gives the same sound.
    grid = [np.concatenate([source, np.zeros(-len(source) % 441, np.int16)]).astype(np.float32) for source in raw]
    together = soxr.resample(np.concatenate(grid), RAW_HZ, rate_hz)
    apart = np.concatenate([soxr.resample(source, RAW_HZ, rate_hz) for source in grid])
    assert np.abs(together - apart).max() < 32  # 60 dB below full scale


def test_silence_is_digital_silence(espeak: tuple[Worker, Hello]) -> None:
    samples, _ = espeak[0].speak(piece("One. Two."))
    assert max(length for _, length in pauses_ms(samples, 8000)) >= 200


# What the sound is like.


def test_speech_at_8_khz_is_loud_enough_and_does_not_clip(espeak: tuple[Worker, Hello]) -> None:
    samples, _ = espeak[0].speak(piece(PRACTICE[:240]))
    assert 1000 < level(samples) < 8000
    assert np.abs(samples.astype(int)).max() < 32767
    assert share_at(samples, 8000, 100, 3400) > 0.95
    assert abs(float(samples.mean())) < 50


def test_speech_at_24_khz_has_nothing_above_what_espeak_makes(espeak: tuple[Worker, Hello]) -> None:
    samples, _ = espeak[0].speak(piece(HELLO, rate_hz=24000))
    assert share_at(samples, 24000, RAW_HZ / 2, 12000) < 1e-6


def test_speed_variant_and_language_change_the_sound(espeak: tuple[Worker, Hello]) -> None:
    one, _ = espeak
    usual, slow, fast = (len(one.speak(piece(HELLO, speed=speed))[0]) for speed in (1.0, 0.5, 2.0))
    assert 1.6 < slow / usual < 2.4
    assert 0.4 < fast / usual < 0.65
    voices = {voice: one.speak(piece(HELLO, voice=voice))[0].tobytes() for voice in ("en-us", "en-us+f3", "de")}
    assert len(set(voices.values())) == 3


@pytest.mark.parametrize(("speed", "nearest"), [(0.25, 80 / 175), (0.4, 80 / 175), (3.0, 450 / 175), (4.0, 450 / 175)])
def test_beyond_what_espeak_speaks_its_speech_is_stretched_at_the_same_pitch(
    espeak: tuple[Worker, Hello], speed: float, nearest: float
) -> None:
    one, hello = espeak
    assert hello.speeds == (80 / 175, 450 / 175)
    own, asked = (one.speak(piece(HELLO, speed=each))[0] for each in (nearest, speed))
    assert len(asked) / len(own) == pytest.approx(nearest / speed, rel=0.01)
    # It moves within a sentence, but by less than the speech would have been resampled: by 1.6 or more.
    assert pitch_hz(asked, 8000) == pytest.approx(pitch_hz(own, 8000), rel=0.3)
    again, _ = one.speak(piece(HELLO, speed=speed, skip_bytes=1000))
    assert again.tobytes() == asked.tobytes()[1000:]


@pytest.mark.parametrize("syllables_per_s", [0.0, 9.0])
def test_an_enrolled_speaker_is_stretched_where_espeak_would_not_follow(
    espeak: tuple[Worker, Hello], syllables_per_s: float
) -> None:
    one, hello = espeak
    assert hello.enrolled_speeds == (0.8, 1.5)
    profile = VoiceProfile(median_f0_hz=120, range_hz=40, syllables_per_s=syllables_per_s)
    embedding = base64.b64encode(profile.serialise()).decode()
    lengths = {
        speed: len(one.speak(piece(HELLO, speed=speed, embedding=embedding))[0]) for speed in (0.4, 0.8, 1.5, 3.0)
    }
    assert lengths[0.4] / lengths[0.8] == pytest.approx(2, rel=0.01)
    assert lengths[3.0] / lengths[1.5] == pytest.approx(0.5, rel=0.01)


def test_pitch_and_range_are_settings() -> None:
    with worker(pitch=85, pitch_range=0, words_per_minute=100) as (high, _), worker(pitch_range=0) as (usual, _):
        low, (raised, _) = usual.speak(piece(HELLO))[0], high.speak(piece(HELLO))
    assert 1.4 < pitch_hz(raised, 8000) / pitch_hz(low, 8000) < 2.2
    assert len(raised) > 1.3 * len(low)


# Hostile text.


def test_plain_text_is_neither_phonemes_nor_markup(espeak: tuple[Worker, Hello]) -> None:
    one, _ = espeak
    word, _ = one.speak(piece("hello"))
    for text in ("[[h@l'oU]]", "<speak>hello</speak>"):
        assert len(one.speak(piece(text))[0]) > 2 * len(word)


def test_ssml_shapes_the_speech(espeak: tuple[Worker, Hello]) -> None:
    one, _ = espeak
    plain, _ = one.speak(piece("<speak>one two</speak>", ssml=True))
    paused, _ = one.speak(piece('<speak>one <break time="1500ms"></break> two</speak>', ssml=True))
    assert 1400 < (len(paused) - len(plain)) / 8 < 1900
    slow, _ = one.speak(piece('<speak><prosody rate="50%">one two</prosody></speak>', ssml=True))
    assert len(slow) > 1.4 * len(plain)


def _tone_file(path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RAW_HZ)
        time_s = np.arange(2 * RAW_HZ) / RAW_HZ
        file.writeframes((30000 * np.sin(2 * np.pi * 3000 * time_s)).astype(np.int16).tobytes())


_WITHOUT_CALLBACK = """
    import sys
    from engines import espeak
    from engines.wire import Speak
    engine = espeak.Espeak(espeak.Settings())
    engine._library.espeak_SetUriCallback(None)
    request = Speak(id=1, text=sys.argv[1], ssml=True, voice="en-us", speed=1.0, rate_hz=8000, last=True)
    engine.speak(request, sys.stdout.buffer.write)
"""


def test_an_audio_element_plays_no_file(espeak: tuple[Worker, Hello], tmp_path: Path) -> None:
    _tone_file(tmp_path / "secret.wav")
    document = f'<speak><audio src="{tmp_path}/secret.wav">instead</audio></speak>'
    samples, ended = espeak[0].speak(piece(document, ssml=True, rate_hz=RAW_HZ))
    assert isinstance(ended, Done)
    assert share_at(samples, RAW_HZ, 2990, 3010) < 0.01
    # The same library plays it when nobody forbids it: this is what the test would hear.
    command = [sys.executable, "-c", textwrap.dedent(_WITHOUT_CALLBACK), document]
    played = subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parent.parent).stdout
    assert share_at(np.frombuffer(played, np.int16), RAW_HZ, 2990, 3010) > 0.5


def test_an_audio_element_does_not_even_open_a_file(espeak: tuple[Worker, Hello], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # whoever opens it waits for ever
    document = f'<speak><audio src="{tmp_path}/pipe">instead</audio></speak>'
    samples, ended = espeak[0].speak(piece(document, ssml=True))
    assert isinstance(ended, Done)
    assert len(samples) > 2000


def test_what_one_text_does_to_the_engine_does_not_outlive_it(espeak: tuple[Worker, Hello]) -> None:
    one, _ = espeak
    before, _ = one.speak(piece("Hello, you."))
    one.speak(piece("<speak><tts:style field='punctuation' mode='all'>a, b", ssml=True))
    one.speak(piece("\x0150S\x0190P\x01V de ", ssml=False))
    after, _ = one.speak(piece("Hello, you."))
    assert np.array_equal(before, after)


def test_a_voice_that_does_not_exist_fails_and_harms_nobody(espeak: tuple[Worker, Hello]) -> None:
    one, _ = espeak
    _, ended = one.speak(piece(HELLO, voice="nobody", id=9))
    assert isinstance(ended, Failed)
    assert ended.id == 9
    assert isinstance(one.speak(piece(HELLO))[1], Done)


# The process.


def test_a_cancelled_piece_stops_at_once(espeak: tuple[Worker, Hello]) -> None:
    one, _ = espeak
    one.send(piece("<speak>" + "word " * 2000 + "</speak>", ssml=True, id=5))
    assert isinstance(one.receive(), Chunk)
    began = time.perf_counter()
    one.send(Cancel(id=5))
    while isinstance(message := one.receive(), Chunk):
        pass
    assert message == Stopped(id=5)
    assert time.perf_counter() - began < 0.5
    assert isinstance(one.speak(piece(HELLO, id=6))[1], Done)


def test_cancelling_what_is_over_is_no_error(espeak: tuple[Worker, Hello]) -> None:
    one, _ = espeak
    one.speak(piece(HELLO, id=5))
    one.send(Cancel(id=5))
    one.send(Ping())
    assert one.receive() == Pong()


def test_a_worker_answers_while_it_speaks() -> None:
    with worker("tone", delay_ms=200) as (one, _):
        one.send(piece("abc", voice="tone-440"))
        one.send(Ping())
        assert one.receive() == Pong()


def test_a_worker_speaks_several_pieces_at_a_time() -> None:
    with worker("tone", delay_ms=100, concurrency=4) as (one, hello):
        assert hello.concurrency == 4
        for number in range(1, 5):
            one.send(piece("x" * number, voice="tone-440", id=number))
        heard: dict[int, bytes] = dict.fromkeys(range(1, 5), b"")
        ended = set()
        while len(ended) < 4:
            match one.receive():
                case Chunk(id=number, samples=samples):
                    heard[number] += samples
                case Done(id=number):
                    ended.add(number)
                    assert heard[number] == tone.samples("x" * number).tobytes()
        assert ended == {1, 2, 3, 4}


def test_a_copy_that_dies_takes_only_its_piece_along() -> None:
    with worker("tone", crash_at_ms=120, word="bad") as (one, _):
        one.send(piece("bad news", voice="tone-440", id=3))
        while isinstance(message := one.receive(), Chunk):
            pass
        assert message == Stopped(id=3)
        samples, ended = one.speak(piece("good news", voice="tone-440", id=4))
        assert ended == Done(id=4)
        assert np.array_equal(samples, tone.samples("good news"))


def test_the_end_of_the_socket_is_the_end_of_worker_and_copies() -> None:
    with worker("tone", delay_ms=60_000) as (one, _):
        one.send(piece("abc", voice="tone-440"))
        one.send(Ping())
        assert one.receive() == Pong()  # so the copy has been made
        [speaking_half] = children(one.process.pid)
        [copy] = children(speaking_half)
    assert is_gone(speaking_half, within_s=2)
    assert is_gone(copy, within_s=2)


def test_a_killed_worker_takes_its_copies_along() -> None:
    with started("tone", delay_ms=60_000) as one:
        assert isinstance(one.receive(), Hello)
        one.send(piece("abc", voice="tone-440"))
        one.send(Ping())
        assert one.receive() == Pong()
        [speaking_half] = children(one.process.pid)
        [copy] = children(speaking_half)
        one.process.kill()
        assert is_gone(speaking_half, within_s=2)
        assert is_gone(copy, within_s=2)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_a_copy_that_crashes_is_reported_with_its_signal(number: signal.Signals) -> None:
    with worker("tone", delay_ms=60_000) as (one, _):
        one.send(piece("abc", voice="tone-440", id=2))
        one.send(Ping())
        assert one.receive() == Pong()
        [speaking_half] = children(one.process.pid)
        [copy] = children(speaking_half)
        os.kill(copy, number)
        assert one.receive() == Failed(id=2, message=f"the engine died of {number.name}")


def test_a_worker_dies_with_a_host_that_left_its_socket_open() -> None:
    script = """
        import sys, time
        from tests.engines_support import Worker
        one = Worker("tone", {})
        one.receive()
        print(one.process.pid, flush=True)
        import os, signal
        os.set_inheritable(one.socket.fileno(), True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    root = Path(__file__).parent.parent
    output = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, cwd=root, check=False
    ).stdout
    assert is_gone(int(output), within_s=2)


def test_workers_end_with_a_host_that_is_killed() -> None:
    script = """
        import asyncio, os, signal
        from engines.pool import open_pool

        async def main():
            async with open_pool("tone", {}, workers=1) as pool:
                print(*pool.worker_pids, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(main())
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    output = subprocess.run(command, capture_output=True, cwd=Path(__file__).parent.parent, check=False).stdout
    assert is_gone(int(output), within_s=2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_leaves_ctrl_c_and_sigterm_to_its_host(espeak: tuple[Worker, Hello], number: signal.Signals) -> None:
    one, _ = espeak
    one.process.send_signal(number)
    assert isinstance(one.speak(piece(HELLO))[1], Done)


@pytest.mark.parametrize(
    ("engine", "options", "complaint"),
    [
        ("nonesuch", {}, "no engine is called 'nonesuch'"),
        ("espeak", {"volume": 3}, "volume"),
    ],
)
def test_a_worker_that_cannot_start_says_why(engine: str, options: dict[str, object], complaint: str) -> None:
    with started(engine, **options) as one:
        failed = one.receive()
        assert isinstance(failed, Failed)
        assert failed.id == 0
        assert complaint in failed.message
        assert one.process.wait(5) == 1


def test_a_request_that_is_longer_than_a_packet_arrives_whole() -> None:
    with worker("tone") as (one, _):
        for packet in packets(piece(HELLO, voice="tone-440", embedding="QUJD" * 60_000)):
            one.socket.send(packet)
        failed = one.receive()
        assert isinstance(failed, Failed)
        assert "UnsuitableUtterance" in failed.message
        assert isinstance(one.speak(piece(HELLO, id=2, voice="tone-440"))[1], Done)


def test_a_worker_does_not_load_what_would_make_its_copies_dear() -> None:
    script = "import engines.worker, engines.espeak, sys; print({'asyncio', 'numpy', 'random'} & set(sys.modules))"
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parent.parent).stdout
    assert output == b"set()\n"
