"""What goes wrong with speech, in the words of the HTTP API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import engines
import http_api
from mediaserver.speech import Speech

__all__ = ["translated"]


@contextmanager
def translated(utterance: engines.Utterance, speech: Speech) -> Iterator[None]:
    """Raises http_api.ControlError where something raises engines.EngineError because of `utterance`."""
    try:
        yield
    except engines.UnknownVoice as error:
        raise http_api.NotFound(str(error), field="speaker_id") from error
    except engines.Unsupported as error:
        raise http_api.Unsupported(str(error), field=error.field) from error
    except engines.UnsuitableUtterance as error:
        raise http_api.Refused(str(error), field=_culprit(utterance, speech)) from error
    except engines.EngineBusy as error:
        raise http_api.Busy(str(error), retry_after_s=error.retry_after_s) from error
    except engines.EngineError as error:
        raise http_api.Failed(str(error)) from error


def _culprit(utterance: engines.Utterance, speech: Speech) -> str:
    """The field without which an unsuitable utterance could be said, if it is the language; otherwise the words."""
    if utterance.language:
        with suppress(engines.UnsuitableUtterance):
            speech.check(replace(utterance, language=""))
            return "language"
    return "ssml" if utterance.ssml else "text"
