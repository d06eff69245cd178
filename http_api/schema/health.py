"""How the server is, and whom it takes a client for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from .body import Body

__all__ = ["HealthReport", "Readiness", "TokenReport"]


class HealthReport(BaseModel):
    """How the server is; further fields are the engine's own details."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    status: Literal["healthy", "unhealthy"]
    ready: Annotated[bool, Field(description="Whether new work is taken now.")]
    gpu_available: bool
    model_loaded: bool
    version: str
    uptime_s: Annotated[float, Field(ge=0)]


class Readiness(Body):
    """Whether new work is taken now."""

    ready: bool


class TokenReport(Body):
    """Whom the server takes a client for."""

    name: Annotated[str | None, Field(description="Of the token; null where no token is asked for.")]
    opens: Annotated[
        tuple[Literal["read", "speak", "call", "admin"], ...],
        Field(description="The roles whose paths are open, whether the token has them or one that includes them."),
    ]
