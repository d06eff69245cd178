"""Speech in other forms than samples: G.711, and files that are written while it is made, Opus in Ogg, FLAC and MP3.

The files are by libsndfile, which soundfile's wheel carries: LGPL-2.1 with BSD and LGPL codecs, no GPL, so it may be
loaded here; and it writes what a stream needs, piece by piece, where PyAV would want a process for each file (see
decoder.py).
"""

from __future__ import annotations

import os
from typing import Final, Literal

import numpy as np
import soundfile

from rtp import g711

__all__ = ["FORMATS", "FileEncoder", "Format", "alaw", "mulaw"]

Format = Literal["opus", "flac", "mp3"]

FORMATS: Final[dict[Format, tuple[str, str]]] = {
    "opus": ("OGG", "OPUS"),  # RFC 7845
    "flac": ("FLAC", "PCM_16"),  # RFC 9639
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
"""The container and the coding, in libsndfile's words."""


_MULAW: Final = np.frombuffer(g711.MULAW_FROM_LINEAR, np.uint8)
_ALAW: Final = np.frombuffer(g711.ALAW_FROM_LINEAR, np.uint8)


def mulaw(samples: bytes) -> bytes:
    """PCMU of signed 16-bit samples in native byte order."""
    return _MULAW[np.frombuffer(samples, np.uint16)].tobytes()


def alaw(samples: bytes) -> bytes:
    """PCMA of signed 16-bit samples in native byte order."""
    return _ALAW[np.frombuffer(samples, np.uint16)].tobytes()


class FileEncoder:
    """One mono file, being written. Not for two threads at a time, and indifferent to which thread it is.

    What an encoder learns late (the length, a checksum) it writes into the file's head. That is in what `take` gives
    when the head was not taken before; otherwise the head leaves it open, as both formats that have it allow.
    """

    def __init__(self, format: Format, rate_hz: int) -> None:
        container, coding = FORMATS[format]
        self._file = _Untaken()
        self._sound = soundfile.SoundFile(
            self._file, "w", samplerate=rate_hz, channels=1, format=container, subtype=coding
        )

    def feed(self, samples: bytes) -> None:
        """Encode signed 16-bit samples in native byte order."""
        self._sound.buffer_write(samples, "int16")

    def finish(self) -> None:
        """No more samples will come."""
        self._sound.close()

    def take(self) -> bytes:
        """What was written since the last time."""
        return self._file.take()


class _Untaken:
    """The end of a file, from what was taken of it on; writing over what was taken is in vain."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._start = 0
        self._position = 0

    def take(self) -> bytes:
        taken = bytes(self._bytes)
        self._bytes.clear()
        self._start += len(taken)
        return taken

    def write(self, data: bytes) -> int:
        late = max(0, self._start - self._position)
        offset = self._position + late - self._start
        kept = memoryview(data)[late:]
        self._bytes[offset : offset + len(kept)] = kept
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._start + len(self._bytes)}
        self._position = origin[whence] + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        """libsndfile asks for it and never calls it."""
        raise OSError("this file is for writing")
