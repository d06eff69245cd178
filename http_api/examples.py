"""What answers look like: an example of each model that the API answers with, as the description shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from pydantic import BaseModel

from .schema import (
    CallDetails,
    CallList,
    ClipReport,
    EmbeddingReport,
    EngineDescription,
    HealthReport,
    OpenAiModel,
    OpenAiModelList,
    PromptReport,
    PushList,
    PushReport,
    Readiness,
    RecordingList,
    RecordingReport,
    SpeakerDetails,
    SpeakerList,
    SpeakerReport,
    TokenReport,
    TransferReport,
    UtteranceReport,
    VoiceList,
    WebRtcAnswer,
)

__all__ = ["ANSWERS", "IDS"]

Example: TypeAlias = Mapping[str, Any] | list[Mapping[str, Any]]

IDS: Mapping[str, str] = {
    "/v1/calls/": "call_0123456789abcdef01234567",
    "/v1/clips/": "clip_0123456789abcdef01234567",
    "/v1/models/": "tts-1",
    "/v1/recordings/": "rec_0123456789abcdef01234567",
    "/v1/rtp/": "0123456789abcdef01234567",
    "/v1/speakers/": "spk_5f0c9be2a1d84e7791c3a6b8",
}
"""What a path that begins so may have in the place of its parameter."""

_VOICE = {"id": "en-us", "name": "English (America)", "language": "en-us"}
_FIGURES = {"median_f0_hz": 118.2, "range_hz": 41.0, "syllables_per_s": 4.4}
_EMBEDDING = {
    "kind": "voice-profile-1",
    "data": "eyJtZWRpYW5fZjBfaHoiOjExOC4yLCJyYW5nZV9oeiI6NDEuMCwic3lsbGFibGVzX3Blcl9zIjo0LjR9",
    "figures": _FIGURES,
}
_MODEL = {"id": "tts-1", "object": "model", "created": 1795608000, "owned_by": "mediaserver"}
_PUSH = {
    "id": IDS["/v1/rtp/"],
    "state": "streaming",
    "failure": None,
    "created_at": "2026-11-25T12:00:00Z",
    "host": "127.0.0.1",
    "port": 40000,
    "codec": "PCMU",
    "payload_type": 0,
    "ptime_ms": 20,
    "ssrc": 2941720834,
    "local_port": 20000,
    "packets_sent": 50,
    "packets_unsent": 0,
    "packets_refused": 0,
    "speech_frames": 48,
    "silence_frames": 2,
    "underrun_frames": 0,
    "underruns": 0,
    "played_ms": 960,
}
_SPEAKER = {
    "id": IDS["/v1/speakers/"],
    "name": "Ada",
    "consent": "Ada Lovelace, in writing, 2026-11-25",
    "created_at": "2026-11-25T12:00:00Z",
    "engine": "espeak",
    "cloning": False,
    "duration_s": 12.5,
    "speech_s": 10.25,
    "level_db": -21.5,
}
_UTTERANCE = {
    "id": "utt_0123456789abcdef",
    "state": "speaking",
    "text": "Your order is ready.",
    "ssml": False,
    "speaker_id": "default",
    "spoken_ms": 640,
    "last_mark": None,
    "barged_in_by": None,
}
_RECORDING = {
    "id": IDS["/v1/recordings/"],
    "call_id": IDS["/v1/calls/"],
    "state": "recording",
    "format": "wav",
    "started_at": "2026-11-25T12:00:04Z",
    "ended_at": None,
    "reason": None,
    "duration_ms": 640,
    "size_bytes": 20524,
}
_CALL = {
    "id": IDS["/v1/calls/"],
    "direction": "outbound",
    "from": "sip:mediaserver@127.0.0.1",
    "to": "sip:alice@127.0.0.1:5070",
    "trunk": None,
    "state": "up",
    "created_at": "2026-11-25T12:00:00Z",
    "ringing_at": "2026-11-25T12:00:01Z",
    "answered_at": "2026-11-25T12:00:04Z",
    "ended_at": None,
    "end": None,
}
_BUSY = _CALL | {
    "id": "call_89abcdef0123456789abcdef",
    "state": "ended",
    "answered_at": None,
    "ended_at": "2026-11-25T12:00:02Z",
    "end": {"reason": "busy", "by": "peer", "sip_status": 486, "sip_reason": "Busy Here"},
}
_MEDIA = {
    "codec": "PCMU",
    "packets_sent": 34,
    "packets_received": 33,
    "lost": 0,
    "jitter_ms": 0.4,
    "peer_lost": 0,
    "rtt_ms": 12.5,
    "mos": 4.37,
    "speech_frames": 32,
    "silence_frames": 2,
    "underrun_frames": 0,
    "underruns": 0,
}

ANSWERS: Mapping[type[BaseModel], Example] = {
    OpenAiModel: _MODEL,
    OpenAiModelList: {"object": "list", "data": [_MODEL]},
    PushReport: _PUSH,
    PushList: {"pushes": [_PUSH]},
    PromptReport: {
        "results": [
            {"status": "made", "duration_ms": 1242.625, "error": None},
            {
                "status": "failed",
                "duration_ms": 0.0,
                "error": {"field": "speaker_id", "message": "there is no voice 'nobody'"},
            },
        ]
    },
    VoiceList: {"engine": "espeak", "voices": [_VOICE]},
    EngineDescription: {
        "name": "espeak",
        "version": "espeak-ng 1.52.0",
        "concurrency": 1,
        "ssml": True,
        "seeds": False,
        "source_rate_hz": 22050,
        "piece_characters": 150,
        "voices": [_VOICE],
        "variants": ["f3"],
        "languages": {"en": "en-us"},
        "cloning": False,
        "embedding_kind": "voice-profile-1",
        "speeds": [0.45, 2.57],
        "enrolled_speeds": [0.8, 1.5],
        "even": False,
        "tags": None,
        "queues": True,
        "notice": "",
    },
    EmbeddingReport: _EMBEDDING,
    SpeakerReport: _SPEAKER,
    SpeakerList: [_SPEAKER],
    SpeakerDetails: _SPEAKER | {"embedding": _EMBEDDING},
    CallDetails: _CALL
    | {
        "held": False,
        "paused": False,
        "digits": 0,
        "first_speech_ms": None,
        "media": _MEDIA,
        "speech": [_UTTERANCE],
        "recordings": [_RECORDING],
    },
    CallList: {"calls": [_BUSY, _CALL]},
    UtteranceReport: _UTTERANCE | {"state": "queued", "spoken_ms": 0},
    ClipReport: {"id": IDS["/v1/clips/"], "duration_ms": 1500},
    TransferReport: {"outcome": "failed", "sip_status": 486, "sip_reason": "Busy Here"},
    RecordingReport: _RECORDING,
    RecordingList: {"recordings": [_RECORDING]},
    WebRtcAnswer: {
        "type": "answer",
        "sdp": "v=0\r\no=- 1 1 IN IP4 192.168.1.10\r\ns=-\r\nt=0 0\r\nm=audio 41000 UDP/TLS/RTP/SAVPF 0\r\n...",
        "call_id": IDS["/v1/calls/"],
    },
    TokenReport: {"name": "console", "opens": ["read", "speak", "call"]},
    HealthReport: {
        "status": "healthy",
        "ready": True,
        "gpu_available": False,
        "model_loaded": True,
        "version": "0.1.0",
        "uptime_s": 741.9,
        "engine": "espeak",
        "engine_version": "espeak-ng 1.52.0",
        "active_calls": 2,
    },
    Readiness: {"ready": True},
}
