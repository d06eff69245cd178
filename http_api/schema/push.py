"""Speech that is sent to an address, in RTP packets."""

from __future__ import annotations

import ipaddress
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

from .body import Body, Codec
from .words import Said

__all__ = ["DYNAMIC_PAYLOAD_TYPES", "STATIC_PAYLOAD_TYPES", "PushList", "PushReport", "PushRequest"]

# RFC 3551 section 6; the payload types from 96 on say nothing by themselves.
STATIC_PAYLOAD_TYPES: dict[Literal["PCMU", "PCMA"], int] = {"PCMU": 0, "PCMA": 8}
DYNAMIC_PAYLOAD_TYPES = range(96, 128)


def _is_address(value: str) -> str:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        raise PydanticCustomError("address", "Host should be an IP address: a name could lead anywhere") from None
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
        raise PydanticCustomError("address_zone", "Host should be an IP address without a zone")
    return value


def _is_payload_type(value: int | None) -> int | None:
    if value is not None and value not in (*STATIC_PAYLOAD_TYPES.values(), *DYNAMIC_PAYLOAD_TYPES):
        raise PydanticCustomError("payload_type", "Payload type should be 0 (PCMU), 8 (PCMA) or in 96 to 127")
    return value


class PushRequest(Said):
    """Ask for speech in RTP packets, sent to an address. Exactly one of `text` and `ssml` is given."""

    host: Annotated[
        str,
        AfterValidator(_is_address),
        WithJsonSchema({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}),
        Field(
            description="IP address to send to, and no name. It has to be in one of the networks that the server may "
            "send to.",
            examples=["127.0.0.1"],
        ),
    ]
    port: Annotated[
        int, Field(ge=1024, le=65534, description="Port to send to; RTCP goes to the one after it.", examples=[4000])
    ]
    payload_type: Annotated[
        int | None,
        AfterValidator(_is_payload_type),
        WithJsonSchema(
            {
                "anyOf": [
                    {"enum": sorted(STATIC_PAYLOAD_TYPES.values())},
                    {"type": "integer", "minimum": DYNAMIC_PAYLOAD_TYPES[0], "maximum": DYNAMIC_PAYLOAD_TYPES[-1]},
                    {"type": "null"},
                ]
            }
        ),
        Field(description="0 is PCMU, 8 is PCMA, and 96 to 127 are what `codec` says. Left out, it is the codec's."),
    ] = None
    codec: Annotated[
        Codec | None,
        Field(validate_default=True, description="Left out, it is that of `payload_type`; or PCMU without one."),
    ] = None
    ptime_ms: Annotated[Literal[10, 20, 30, 40, 60], Field(description="Speech in one packet.")] = 20
    ssrc: Annotated[int | None, Field(ge=0, le=2**32 - 1, description="Left out, it is random.")] = None
    local_port: Annotated[
        int | None,
        Field(
            ge=1024,
            le=65534,
            multiple_of=2,
            description="Even port to send from; RTCP takes the one after it. Left out, the server takes one of its "
            "range.",
        ),
    ] = None

    @field_validator("codec")
    @classmethod
    def _suits_the_payload_type(cls, codec: Codec | None, info: ValidationInfo) -> Codec | None:
        payload_type = info.data.get("payload_type")
        if payload_type in DYNAMIC_PAYLOAD_TYPES and codec is None:
            raise PydanticCustomError(
                "codec_missing",
                "Payload type {payload_type} is dynamic: say what it is",
                {"payload_type": payload_type},
            )
        for static, number in STATIC_PAYLOAD_TYPES.items():
            if payload_type == number and codec not in (None, static):
                raise PydanticCustomError(
                    "codec_not_of_payload_type",
                    "Payload type {payload_type} is {codec} and nothing else",
                    {"payload_type": payload_type, "codec": static},
                )
        return codec

    def coding(self) -> tuple[Codec, int]:
        """Codec and payload type, where one was left to follow from the other."""
        if self.codec is not None:
            number = STATIC_PAYLOAD_TYPES[self.codec] if self.payload_type is None else self.payload_type
            return self.codec, number
        return ("PCMA", 8) if self.payload_type == STATIC_PAYLOAD_TYPES["PCMA"] else ("PCMU", 0)


class PushReport(Body):
    """What is known of a push."""

    id: str
    state: Annotated[
        Literal["streaming", "done", "stopped", "failed"],
        Field(description="`streaming` comes first. `done`: all was sent. `stopped`: by DELETE, or with the server."),
    ]
    failure: Annotated[str | None, Field(description="What went wrong; null unless `failed`.")]
    created_at: datetime
    host: Annotated[str, Field(description="An IPv4-mapped IPv6 address is given as the IPv4 address that it is.")]
    port: int
    codec: Codec
    payload_type: int
    ptime_ms: int
    ssrc: int
    local_port: Annotated[int, Field(description="Packets come from here, and RTCP from the one after it.")]
    packets_sent: int
    packets_unsent: Annotated[int, Field(description="Packets that the system would not send.")]
    packets_refused: Annotated[int, Field(description="ICMP errors that came back: nobody listens there, say.")]
    speech_frames: Annotated[int, Field(description="Packets of speech.")]
    silence_frames: Annotated[int, Field(description="Packets sent while nothing was being said.")]
    underrun_frames: Annotated[int, Field(description="Packets of silence in the place of speech that was late.")]
    underruns: Annotated[int, Field(description="How often speech was late.")]
    played_ms: Annotated[int, Field(description="How much of the speech has been sent.")]


class PushList(Body):
    """What is known of all pushes: first those that have ended, then those that are alive."""

    pushes: tuple[PushReport, ...]
