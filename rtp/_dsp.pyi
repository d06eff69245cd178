"""Signal work on buffers: G.711 both ways by table, and resampling with state.

Linear samples are signed 16-bit mono in native byte order throughout. All of it raises LocalProtocolError for half a
sample, for a codec that is neither "PCMU" nor "PCMA", and for a rate that no audio has.
"""

from typing import Literal

from typing_extensions import Buffer

Codec = Literal["PCMU", "PCMA"]

__all__ = ["Resampler", "decode", "encode"]

def encode(samples: Buffer, codec: Codec) -> bytes:
    """G.711 codes, one octet a sample."""

def decode(codes: Buffer, codec: Codec) -> bytes:
    """Linear samples out of G.711 codes."""

class Resampler:
    """One stateful stream from one rate to another (libsoxr, "HQ"): chunk borders leave no trace in its output."""

    def __init__(self, from_hz: int, to_hz: int) -> None: ...
    @property
    def from_hz(self) -> int: ...
    def feed(self, samples: Buffer) -> bytes:
        """What is ready of the samples so far; a filter's length behind them."""

    def finish(self) -> bytes:
        """The rest. The stream is over then."""
