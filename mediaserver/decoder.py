"""The process that decodes one audio file: `python -m mediaserver.decoder RATE_HZ MAX_S LIMIT_S`, started by audio.py.

It reads the file from standard input, which must be seekable, and writes signed 16-bit mono samples in native byte
order to standard output. When it cannot, it exits with status 1, and the last line on standard error says why.

It is a process of its own for two reasons. PyAV's wheel carries an FFmpeg with parts under the GPL (libx264, libx265),
which the server must not load. And a file comes from anywhere: its decoder, a good deal of C, gets bounded memory and
time, cannot open anything else, and takes nobody along when it crashes.
"""

from __future__ import annotations

import itertools
import resource
import sys
from collections.abc import Iterator
from typing import Final

__all__ = ["main"]

MEMORY_BYTES: Final = 512 * 1024 * 1024
"""Address space. The interpreter and the libraries take 130 MB of it; the samples pass through and are not kept."""

_LIBRARY_FILES: Final = 32
_STANDARD_STREAMS: Final = 3

CONTAINERS: Final = "aac,aiff,amr,asf,au,caf,flac,matroska,mov,mp3,ogg,w64,wav"
"""What FFmpeg may take the file for, by its demuxers' names. Not among them: playlists and session descriptions (hls,
dash, concat, sdp), which name further files, addresses and ports."""

_OPTIONS: Final = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none"}

_RESAMPLING: Final = {"filter_size": "128", "cutoff": "0.97", "tsf": "fltp"}
"""To 8 kHz: flat up to 3.7 kHz, and 4.1 kHz comes through at -92 dB. With FFmpeg's own filter size, 32: at -15 dB."""


class _Unusable(Exception):
    """The file is not audio that can be used; the message says why."""


def main(rate_hz: int, max_s: float, limit_s: int) -> None:
    """Decode standard input to standard output, in `limit_s` seconds of processor time at most. Exits with a reason."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_AS, MEMORY_BYTES)
    _limit(resource.RLIMIT_CPU, limit_s)  # The server kills it then; this is in case the server is gone.
    _limit(resource.RLIMIT_NOFILE, _LIBRARY_FILES)
    try:
        for samples in _decode(rate_hz, max_s):
            sys.stdout.buffer.write(samples)
        sys.stdout.buffer.flush()
    except _Unusable as error:
        sys.exit(str(error))
    except MemoryError:
        sys.exit("it takes too much memory to decode")


def _limit(what: int, value: int) -> None:
    resource.setrlimit(what, (value, value))


def _decode(rate_hz: int, max_s: float) -> Iterator[bytes]:
    # Here, within the limits. PyAV would load its subtitles' part when it meets the first stream, and that is too late.
    import av
    import av.subtitles.codeccontext
    import av.subtitles.stream

    # No number is left for another file or socket, whatever FFmpeg is talked into.
    _limit(resource.RLIMIT_NOFILE, _STANDARD_STREAMS)
    room = longest = round(max_s * rate_hz)
    try:
        with av.open(sys.stdin.buffer, mode="r", options=_OPTIONS, metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise _Unusable("there is no audio track in it")
            track = container.streams.audio[0]
            track.codec_context.thread_count = 1
            # A stream may change in the middle (chained Ogg files do), and a resampler is made for one kind of frame.
            kinds = itertools.groupby(
                container.decode(track), lambda frame: (frame.sample_rate, frame.format.name, frame.layout.name)
            )
            for _, frames in kinds:
                resampler = av.AudioResampler(format="s16", layout="mono", rate=rate_hz, options=_RESAMPLING)
                for frame in itertools.chain(frames, [None]):
                    for piece in resampler.resample(frame):
                        room -= piece.samples
                        if room < 0:
                            raise _Unusable(f"it is longer than {max_s:g} s")
                        yield bytes(piece.planes[0])[: piece.samples * 2]
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, (av.FFmpegError, OSError)) else error
        raise _Unusable(f"it does not decode as audio: {reason}") from error
    if room == longest:
        raise _Unusable("it holds no sound")


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
