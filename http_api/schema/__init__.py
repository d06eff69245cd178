"""Every body that travels over HTTP, as a model, and the limits that a request is held to.

Models are strict (`"text": 5` is an error, not "5"), closed (an unknown field is an error) and frozen. The names of
the fields are the names on the wire; what describes them is published. Validated with an `ApiLimits` as pydantic's
context, they hold a request to it.
"""

from __future__ import annotations

from .body import Body, Line, Reference, WebAddress
from .calls import (
    CallDetails,
    CallList,
    CallMedia,
    CallReport,
    CallRequest,
    DigitsRequest,
    TransferReport,
    TransferRequest,
)
from .clips import ClipReport, ClipUpload
from .engine import EmbeddingReport, EmbeddingRequest, EngineDescription, EngineRequest, VoiceList, VoiceReport
from .events import EVENT_KINDS, EventReport
from .health import HealthReport, Readiness, TokenReport
from .limits import ApiLimits
from .line import LineCleared, LineDigit, LineMark, LineMessage, LineQuery, LineStart, LineStop, TwilioMessage
from .openai import (
    OpenAiError,
    OpenAiFault,
    OpenAiModel,
    OpenAiModelList,
    OpenAiSpeechDelta,
    OpenAiSpeechDone,
    OpenAiSpeechRequest,
    OpenAiUsage,
)
from .problem import FieldError, ProblemDetails, SocketError
from .prompts import PromptReport, PromptResult, PromptsRequest
from .push import PushList, PushReport, PushRequest
from .recordings import RecordingList, RecordingReport, RecordRequest
from .speakers import SpeakerChange, SpeakerDetails, SpeakerEmbedding, SpeakerList, SpeakerReport, SpeakerUpload
from .synthesis import SpeechFigures, StreamRequest, SynthesizeRequest
from .talk import TalkCancelled, TalkDone, TalkFlushed, TalkMark, TalkMessage, TalkReady
from .utterances import BargeIn, PlayRequest, PlayUpload, Repeat, SayRequest, UtteranceReport
from .webrtc import WebRtcAnswer, WebRtcOffer
from .words import SpeakerId, Wording

__all__ = [
    "EVENT_KINDS",
    "ApiLimits",
    "BargeIn",
    "Body",
    "CallDetails",
    "CallList",
    "CallMedia",
    "CallReport",
    "CallRequest",
    "ClipReport",
    "ClipUpload",
    "DigitsRequest",
    "EmbeddingReport",
    "EmbeddingRequest",
    "EngineDescription",
    "EngineRequest",
    "EventReport",
    "FieldError",
    "HealthReport",
    "Line",
    "LineCleared",
    "LineDigit",
    "LineMark",
    "LineMessage",
    "LineQuery",
    "LineStart",
    "LineStop",
    "OpenAiError",
    "OpenAiFault",
    "OpenAiModel",
    "OpenAiModelList",
    "OpenAiSpeechDelta",
    "OpenAiSpeechDone",
    "OpenAiSpeechRequest",
    "OpenAiUsage",
    "PlayRequest",
    "PlayUpload",
    "ProblemDetails",
    "PromptReport",
    "PromptResult",
    "PromptsRequest",
    "PushList",
    "PushReport",
    "PushRequest",
    "Readiness",
    "RecordRequest",
    "RecordingList",
    "RecordingReport",
    "Reference",
    "Repeat",
    "SayRequest",
    "SocketError",
    "SpeakerChange",
    "SpeakerDetails",
    "SpeakerEmbedding",
    "SpeakerId",
    "SpeakerList",
    "SpeakerReport",
    "SpeakerUpload",
    "SpeechFigures",
    "StreamRequest",
    "SynthesizeRequest",
    "TalkCancelled",
    "TalkDone",
    "TalkFlushed",
    "TalkMark",
    "TalkMessage",
    "TalkReady",
    "TokenReport",
    "TransferReport",
    "TransferRequest",
    "TwilioMessage",
    "UtteranceReport",
    "VoiceList",
    "VoiceReport",
    "WebAddress",
    "WebRtcAnswer",
    "WebRtcOffer",
    "Wording",
]
