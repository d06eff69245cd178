"""Audio files are decoded in a process of their own: what comes out, what is refused, and what a file cannot do."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import random
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from mediaserver import audio, decoder
from tests.live import rtp_ports

Samples = npt.NDArray[np.int16]

AMPLITUDE = 16000
KINDS = {
    "wav": "pcm_s16le",
    "w64": "pcm_s16le",
    "aiff": "pcm_s16be",
    "au": "pcm_mulaw",
    "caf": "pcm_s16be",
    "flac": "flac",
    "mp3": "libmp3lame",
    "adts": "aac",
    "ipod": "aac",
    "ogg": "libopus",
    "webm": "libopus",
    "asf": "wmav2",
}
"""FFmpeg's name of a container, and a codec that is found in it."""


def tone(
    hz: float = 440, *, seconds: float = 1.0, rate_hz: int = 48000, layout: str = "stereo", kind: str = "wav"
) -> bytes:
    """An audio file with a sine at 16000 of 32768."""
    wave = np.round(AMPLITUDE * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz))
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(KINDS[kind], rate=rate_hz)
        stream.layout = layout
        stream.bit_rate = 128000  # without one there is no WMA
        channels = stream.layout.nb_channels
        frame = av.AudioFrame.from_ndarray(np.repeat(wave, channels).astype(np.int16)[None], "s16", layout)
        frame.sample_rate = rate_hz
        for one in (frame, None):
            container.mux(stream.encode(one))
    return file.getvalue()


async def decoded(source: bytes | Path, *, max_s: float = 10) -> Samples:
    return np.frombuffer(await audio.decode(source, max_s=max_s), np.int16)


async def refused(source: bytes | Path, *, max_s: float = 10) -> str:
    with pytest.raises(audio.AudioError) as caught:
        await audio.decode(source, max_s=max_s)
    return str(caught.value)


def level_db(samples: Samples) -> float:
    """Of the middle, which no filter's edge reaches; 0 dB is the level of `tone`."""
    middle = samples[800:-800].astype(float)
    return float(20 * np.log10(max(np.sqrt(np.mean(middle**2)), 1e-3) / (AMPLITUDE / np.sqrt(2))))


def pitch_hz(samples: Samples) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples)))) * audio.RATE_HZ / len(samples)


def decoders() -> list[int]:
    """Process ids of our children that decode, the dead and unburied included."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = (directory / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (directory / "cmdline").read_bytes()
            if int(parent) == os.getpid() and (b"mediaserver.decoder" in command or state == "Z"):
                found.append(int(directory.name))
    return found


def maps(pid: int) -> str:
    """What is loaded into a process."""
    return Path(f"/proc/{pid}/maps").read_text()


def limits(pid: int) -> dict[str, str]:
    """The soft limits of a process by name, as Linux shows them."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    return {line[:26].strip(): line[26:47].strip() for line in lines}


@asynccontextmanager
async def hung(tmp_path: Path, *, max_s: float = 10) -> AsyncIterator[tuple[asyncio.Task[bytes], int]]:
    """A decoding that waits for its file (a pipe that nobody writes to), and its process, which has begun to read."""
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    writer = os.open(pipe, os.O_RDWR)
    task = asyncio.create_task(audio.decode(pipe, max_s=max_s))
    try:
        async with asyncio.timeout(20):
            while not (pids := decoders()) or limits(pids[0])["Max open files"] != "3":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        yield task, pids[0]
    finally:
        task.cancel()
        await asyncio.wait([task])
        os.close(writer)


@pytest.mark.parametrize("kind", KINDS)
async def test_common_containers_are_decoded_to_8_khz_mono(kind: str) -> None:
    samples = await decoded(tone(kind=kind))
    assert len(samples) == pytest.approx(8000, abs=500)  # codecs pad to whole frames
    assert pitch_hz(samples) == pytest.approx(440, abs=1)
    assert level_db(samples[:8000]) == pytest.approx(0, abs=0.5)


async def test_a_path_and_its_bytes_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "tone.mp3"
    path.write_bytes(tone(kind="mp3"))
    assert await audio.decode(path, max_s=10) == await audio.decode(path.read_bytes(), max_s=10)


async def test_what_is_8_khz_mono_already_stays_as_it_is(tmp_path: Path) -> None:
    samples = np.random.default_rng(1).integers(-32768, 32768, 8000, dtype=np.int16).tobytes()
    audio.write_wav(tmp_path / "noise.wav", samples, rate_hz=8000)
    assert await audio.decode(tmp_path / "noise.wav", max_s=10) == samples


@pytest.mark.parametrize("rate_hz", [44100, 48000])
async def test_the_telephone_band_passes_and_nothing_above_4_khz_folds_into_it(rate_hz: int) -> None:
    frequencies = (300, 1000, 3400, 3700, 4100, 4600, 6000)
    levels = [level_db(await decoded(tone(hz, rate_hz=rate_hz))) for hz in frequencies]
    assert levels[:4] == pytest.approx([0] * 4, abs=0.05)
    assert max(levels[4:]) < -70


async def test_a_file_whose_rate_and_channels_change_in_the_middle_is_decoded_to_its_end() -> None:
    first = tone(kind="adts", rate_hz=44100, layout="stereo")
    second = tone(880, kind="adts", rate_hz=22050, layout="mono")
    samples = await decoded(first + second)
    assert len(samples) == pytest.approx(16000, abs=1500)
    assert pitch_hz(samples[:7000]) == pytest.approx(440, abs=1)
    assert pitch_hz(samples[-7000:]) == pytest.approx(880, abs=1)


async def test_sound_as_long_as_allowed_is_decoded_and_longer_is_refused() -> None:
    assert len(await decoded(tone(seconds=1), max_s=1)) == 8000
    assert await refused(tone(seconds=1.01), max_s=1) == "it is longer than 1 s"


async def test_a_path_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    assert await refused(tmp_path / "absent.wav") == "it cannot be read: No such file or directory"
    assert await refused(tmp_path) == "it cannot be read: Is a directory"


@pytest.mark.parametrize("source", [b"", b"RIFF", b"Hello." * 1000, b"\x00" * 5000])
async def test_what_is_no_audio_says_so(source: bytes) -> None:
    assert (await refused(source)).startswith("it does not decode as audio: ")


async def test_a_video_without_sound_has_no_audio_track() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for frame in (av.VideoFrame(64, 64, "yuv420p"), None):
            container.mux(stream.encode(frame))
    assert await refused(file.getvalue()) == "there is no audio track in it"


async def test_an_empty_wav_file_holds_no_sound(tmp_path: Path) -> None:
    audio.write_wav(tmp_path / "empty.wav", b"", rate_hz=8000)
    assert await refused(tmp_path / "empty.wav") == "it holds no sound"


@pytest.mark.parametrize("name", ["{here}/tone.wav", "file:{here}/tone.wav", "tone.wav", "http://127.0.0.1:{port}/a"])
@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{name}\n#EXT-X-ENDLIST\n",
        '#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXT-X-MAP:URI="{name}"\n#EXTINF:10,\n{name}\n#EXT-X-ENDLIST\n',
        "ffconcat version 1.0\nfile '{name}'\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
        '<AdaptationSet mimeType="audio/mp4"><Representation id="0"><BaseURL>{name}</BaseURL></Representation>'
        "</AdaptationSet></Period></MPD>",
    ],
    ids=["hls", "hls-map", "concat", "dash"],
)
async def test_a_playlist_leads_to_no_other_file_and_no_address(
    playlist: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tone.wav").write_bytes(tone())
    path = tmp_path / "playlist.m3u8"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        path.write_text(playlist.format(name=name.format(here=tmp_path, port=listener.getsockname()[1])))
        assert (await refused(path)).startswith("it does not decode as audio: ")
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


async def test_a_session_description_opens_no_socket() -> None:
    sdp = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 0 RTP/AVP 0\n"
    assert (await refused(sdp)).startswith("it does not decode as audio: ")


async def test_damaged_files_are_decoded_or_refused_and_nothing_else() -> None:
    rng = random.Random(1)
    for kind in ("wav", "mp3", "ipod", "ogg", "flac", "asf"):
        file = bytearray(tone(kind=kind))
        for _ in range(40):
            file[rng.randrange(len(file))] = rng.randrange(256)
        with contextlib.suppress(audio.AudioError):
            assert len(await decoded(bytes(file[: rng.randrange(len(file))]))) <= 80000


async def test_the_decoder_has_bounded_memory_and_time_and_can_open_and_write_nothing(tmp_path: Path) -> None:
    async with hung(tmp_path, max_s=600) as (_, pid):
        shown = limits(pid)
        assert shown["Max address space"] == str(decoder.MEMORY_BYTES)
        assert shown["Max cpu time"] == "20"
        assert shown["Max open files"] == "3"
        assert shown["Max file size"] == "0"
        assert shown["Max core file size"] == "0"
        assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]


async def test_a_file_that_takes_too_much_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matroska may carry attachments, FFmpeg keeps them, and a sparse file holds three of 255 MB for nothing."""
    monkeypatch.setattr(audio, "START_LIMIT_S", 60.0)  # it is memory that is to run out, and not time

    def element(identifier: str, payload: bytes = b"", *, more: int = 0) -> bytes:
        """RFC 8794 section 4: identifier, size in eight octets, payload. `more` octets of it follow elsewhere."""
        return bytes.fromhex(identifier) + (len(payload) + more | 1 << 56).to_bytes(8, "big") + payload

    size = 255 * 1024 * 1024
    path = tmp_path / "attachments.mkv"
    with path.open("wb") as file:
        file.write(element("1A45DFA3", element("4282", b"matroska")))
        file.write(element("18538067", more=4 * size))
        for number in (b"1", b"2", b"3"):
            about = element("466E", b"name") + element("4660", b"text/plain") + element("46AE", number)
            attached = element("61A7", about + element("465C", more=size), more=size)
            file.write(element("1941A469", attached, more=size))
            file.seek(size, os.SEEK_CUR)
        file.truncate()
    assert await refused(path) == "it takes too much memory to decode"


async def test_a_decoding_that_takes_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "START_LIMIT_S", 1.0)
    async with hung(tmp_path, max_s=6) as (task, _):
        with pytest.raises(audio.AudioError, match=r"^it takes longer than 1\.1 s to decode$"):
            await task
        assert decoders() == []


async def test_a_decoder_that_crashes_takes_nobody_along(tmp_path: Path) -> None:
    async with hung(tmp_path) as (task, pid):
        os.kill(pid, signal.SIGSEGV)
        with pytest.raises(audio.AudioError, match=r"^its decoder was killed by signal 11$"):
            await task
        assert decoders() == []


async def test_cancelling_kills_the_decoder_and_buries_it(tmp_path: Path) -> None:
    async with hung(tmp_path) as (task, _):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert decoders() == []


async def test_the_server_itself_loads_neither_ffmpeg_nor_espeak(tmp_path: Path) -> None:
    """They are under the GPL, apart or in part; here the server has decoded a file, and has its voices ready."""
    (tmp_path / "tone.wav").write_bytes(tone())
    script = f"""
import asyncio, pathlib
import mediaserver.__main__
from mediaserver import config, server

async def main():
    settings = config.Config.model_validate({{
        "sip": {{"listen": "127.0.0.1:0"}},
        "http": {{"listen": "127.0.0.1:0"}},
        "rtp": {{"ports": "{rtp_ports()}"}},
        "route": [{{"play": {str(tmp_path / "tone.wav")!r}}}, {{"say": "Hello."}}],
    }})
    async with server.running(settings) as running:
        assert running.engine.name == "espeak"
        print(pathlib.Path("/proc/self/maps").read_text())

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=PIPE)
    loaded = (await process.communicate())[0].decode().lower()
    assert process.returncode == 0
    assert "_plane" in loaded
    for library in ("x264", "x265", "libav", "espeak"):
        assert library not in loaded


async def test_the_decoder_is_where_ffmpeg_is_loaded(tmp_path: Path) -> None:
    async with hung(tmp_path) as (_, pid):
        assert "libavcodec" in maps(pid)
