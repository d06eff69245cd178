"""A model at work for many streams: text in, samples out, one piece of work at a time for as many as want the same.

Nothing in here decides what is done next; scheduler.py does. Errors of one stream stay with it.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import soxr
import torch

from engines.chatterbox.checkpoint import Checkpoint
from engines.chatterbox.decoder import Decoder, End, Request
from engines.chatterbox.hot import Hot
from engines.chatterbox.mel_stream import Hop, MelDecoder, MelStream, Mode, VoiceState
from engines.chatterbox.sampling import MULTILINGUAL, ORIGINAL, Sampling
from engines.chatterbox.shapes import SAMPLE_RATE_HZ, SILENCE, Backbone
from engines.chatterbox.telephony import Coding, PhoneEncoder, PhoneStream, pcm16
from engines.chatterbox.text import most_tokens
from engines.chatterbox.voice import Voice
from engines.chatterbox.wave_stream import Piece, WaveDecoder, WaveStream
from engines.engine import UnsuitableUtterance
from engines.wire import Speak

__all__ = ["Known", "Networks"]

POSITIONS = 2048
"""Of a sequence: a voice, 250 characters and 40 s of speech."""

PHONE_HZ = 8000
_TRAILING_SILENCE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What there is of a stream: tokens that a hop could have, whether there will be others, and why it has failed."""

    key: int
    ready: int
    ended: bool
    failure: str = ""


@dataclass(slots=True, kw_only=True, eq=False)
class _Stream:
    """`held`: the latest token of a model whose last one is not to be heard."""

    ticket: int | None
    mel: MelStream
    wave: WaveStream
    phone: PhoneStream | None
    resampler: soxr.ResampleStream | None
    rate_hz: int
    voice: str
    hop: Hop | None = None
    held: list[int] = field(default_factory=list)


class Networks:
    """The streams of one model on its device.

    slots        streams at a time
    voice_bytes  for what is kept of voices on the device: half of it each for T3 and for the flow
    """

    def __init__(
        self, checkpoint: Checkpoint, *, mode: Mode, slots: int, voice_bytes: int, guidance: float | None
    ) -> None:
        self.checkpoint, self.mode = checkpoint, mode
        shape = checkpoint.shape
        self._decoder = Decoder(checkpoint.t3, slots=slots, positions=POSITIONS, prefix_bytes=voice_bytes // 2)
        self._mels = MelDecoder(checkpoint.s3gen.flow, mode)
        self._waves = WaveDecoder(checkpoint.s3gen.mel2wav)
        self._phones = PhoneEncoder(checkpoint.t3.device)
        self._voices: Hot[str, VoiceState] = Hot(voice_bytes // 2)
        self._streams: dict[int, _Stream] = {}
        self._tickets: dict[int, int] = {}
        self._sampling = Sampling()
        if shape.t3.guided:
            self._sampling = MULTILINGUAL if shape.name == "multilingual" else ORIGINAL
            if guidance is not None:
                self._sampling = Sampling(
                    **{name: getattr(self._sampling, name) for name in ("top_p", "min_p", "repetition_penalty")},
                    guidance=guidance,
                )
        self.looped = 0
        self.unfinished = 0

    @property
    def memory_bytes(self) -> int:
        """Of the device that is a GPU, as PyTorch has taken it."""
        device = self.checkpoint.t3.device
        return torch.cuda.memory_reserved(device) if device.type == "cuda" else 0

    def warm_up(self) -> None:
        """Have all that is made once made, before anybody waits for it."""
        self._decoder.warm_up()

    def begin(self, piece: Speak) -> None:
        """Take a stream in; its number is the piece's. Raises UnsuitableUtterance, EngineBusy, MemoryError."""
        key, text, rate_hz = piece.id, piece.text, piece.rate_hz
        tokens = self.checkpoint.text.tokens(text, piece.language)
        # Without a seed, the same text is said in the same way.
        seed = zlib.crc32(text.encode()) if piece.seed is None else piece.seed
        voice, digest = self._voice(piece.embedding)
        with _memory():
            state = self._voices.get(digest, lambda: self._mels.prepare(voice.flow_prompt))
            ticket = self._decoder.join(
                Request(
                    prompt=voice.t3_prompt(), text=tokens, seed=seed, most=most_tokens(text), sampling=self._sampling
                )
            )
        self._tickets[ticket] = key
        between = rate_hz not in (PHONE_HZ, SAMPLE_RATE_HZ)
        self._streams[key] = _Stream(
            ticket=ticket,
            mel=self._mels.open(state, seed),
            wave=self._waves.open(seed),
            phone=self._phones.open() if rate_hz == PHONE_HZ else None,
            resampler=soxr.ResampleStream(SAMPLE_RATE_HZ, rate_hz, 1, dtype="float32") if between else None,
            rate_hz=rate_hz,
            voice=digest,
        )

    def close(self, key: int) -> None:
        """End a stream at whatever stage; its slot is free at once."""
        stream = self._streams.pop(key, None)
        if stream and stream.ticket is not None:
            self._decoder.cancel(stream.ticket)
            del self._tickets[stream.ticket]

    def _voice(self, embedding: str) -> tuple[Voice, str]:
        """The voice of an embedding in base64, and a digest of it. Raises UnsuitableUtterance."""
        if not embedding:
            return self.checkpoint.voice, "default"
        voice = Voice.parse(base64.b64decode(embedding))
        if voice.weights != self.checkpoint.deriving:
            raise UnsuitableUtterance("other weights have made this voice: enrol the speaker anew")
        return voice, hashlib.sha256(embedding.encode()).hexdigest()

    def rows(self, key: int, count: int) -> int:
        """How many rows a hop over so many tokens computes."""
        return self._mels.rows(self._streams[key].mel, count)

    def step(self) -> list[Known]:
        """One token more for each stream."""
        known = []
        with _memory():
            stepped = self._decoder.step()
        for produced in stepped:
            key = self._tickets[produced.ticket]
            stream = self._streams[key]
            if produced.end:
                stream.ticket = None
                del self._tickets[produced.ticket]
                self.looped += produced.end is End.LOOP
                self.unfinished += produced.end is End.LIMIT
            self._push(stream, produced.tokens, last=produced.end is not None)
            failure = "the model has made what is no number" if produced.end is End.BROKEN else ""
            known.append(Known(key=key, ready=stream.mel.ready, ended=stream.mel.ended, failure=failure))
        return known

    def flow(self, keys: Sequence[int], counts: Sequence[int]) -> None:
        """Frames of so many tokens of each stream."""
        streams = [self._streams[key] for key in keys]
        with _memory():
            hops = self._mels.decode([stream.mel for stream in streams], counts)
        for stream, hop in zip(streams, hops, strict=True):
            stream.hop = hop

    def wave(self, keys: Sequence[int]) -> list[bytes | None]:
        """The samples of each stream's frames, 16 bits at the stream's rate; None for a stream that is broken."""
        streams = [self._streams[key] for key in keys]
        pieces = []
        for stream in streams:
            assert stream.hop is not None
            pieces.append(Piece(frames=stream.hop.frames, draft=stream.hop.draft, last=stream.mel.done))
        # Copies, because what runs out of memory half-way is tried again.
        waves = [copy.copy(stream.wave) for stream in streams]
        with _memory():
            made = self._waves.decode(waves, pieces)
        coded = [self._encode(stream, samples) for stream, samples in zip(streams, made, strict=True)]
        for stream, wave, samples in zip(streams, waves, coded, strict=True):
            stream.wave, stream.hop = wave, None
            if samples is None:
                self._voices.drop(stream.voice)
        return coded

    def _push(self, stream: _Stream, tokens: Sequence[int], *, last: bool) -> None:
        shape = self.checkpoint.shape
        fresh = [*stream.held, *tokens]
        stream.held = []
        if shape.name == "multilingual":  # The last token of this model is 40 ms of noise.
            fresh, held = fresh[:-1], fresh[-1:]
            stream.held = [] if last else held
        if last and shape.t3.backbone is Backbone.GPT2:
            fresh += [SILENCE] * _TRAILING_SILENCE
        stream.mel.push(fresh, last=last)

    def _encode(self, stream: _Stream, samples: torch.Tensor) -> bytes | None:
        if stream.phone is not None:
            return self._phones.encode([stream.phone], [samples], [Coding.LINEAR])[0]
        if not bool(samples.isfinite().all()):
            return None
        if stream.resampler is None:
            return bytes(pcm16(samples).to(torch.int16).cpu().numpy().tobytes())
        sound = stream.resampler.resample_chunk(samples.float().cpu().numpy(), last=stream.mel.done)
        return bytes(np.clip(np.rint(sound * 32768), -32768, 32767).astype(np.int16).tobytes())


@contextlib.contextmanager
def _memory() -> Iterator[None]:
    """Have a device without memory speak like a machine without: what it kept for later is given back first."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise MemoryError(str(error).splitlines()[0]) from error
