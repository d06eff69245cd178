"""The command line. Exit codes: 0 done, 1 it failed, 2 wrong usage or configuration, 3 the call was not answered."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click

import engines
from mediaserver import audio, config, logs, server, softphone

CONFIG_OPTION = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file; deploy/mediaserver.toml shows every key. Without it the defaults apply.",
)


class ConfigurationFault(click.ClickException):
    exit_code = 2


def _load(path: Path | None) -> config.Config:
    try:
        return config.load(path, os.environ)
    except config.ConfigError as error:
        raise ConfigurationFault(str(error)) from error


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mediaserver")
def main() -> None:
    """A telephony media server: it answers SIP calls, and speaks.

    \b
    mediaserver serve                                     start it
    mediaserver call sip:hello@127.0.0.1 --text "Hello"   call it, and hear what it says
    mediaserver say "Hello" -o hello.wav                  only the speech
    """


@main.command()
@CONFIG_OPTION
def serve(path: Path | None) -> None:
    """Start the server, and run until SIGTERM or Ctrl-C.

    Every key of the configuration can be set by the environment too: MEDIASERVER_SIP__LISTEN=127.0.0.1:5070 sets
    sip.listen.
    """
    settings = _load(path)
    logs.configure(settings.log)
    try:
        asyncio.run(server.serve(settings, banner=click.echo))
    except server.StartError as error:
        raise click.ClickException(str(error)) from error


@main.command()
@CONFIG_OPTION
def check(path: Path | None) -> None:
    """Check a configuration, the environment included, and say exactly which key is wrong."""
    settings = _load(path)
    if problems := server.problems(settings):
        raise ConfigurationFault("\n".join(problems))
    click.echo(f"{path or 'the defaults'}: good, with {len(settings.route)} route(s)")


@main.command()
@click.argument("uri")
@click.option("--text", help="What the server is to say, sent in the header X-Speak. Without it: what its routes say.")
@click.option("--voice", help="The voice to say it with (X-Speaker).")
@click.option("--language", help='The language to say it in, such as "de" (X-Language).')
@click.option(
    "--record",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Write what is heard to this WAV file (8 kHz, 16 bit, mono).",
)
@click.option(
    "--seconds", type=click.FloatRange(min=0.1), default=60.0, show_default=True, help="Hang up after so long."
)
@click.option("--codec", type=click.Choice(["PCMU", "PCMA"]), default="PCMU", show_default=True)
def call(
    uri: str,
    text: str | None,
    voice: str | None,
    language: str | None,
    record: Path | None,
    seconds: float,
    codec: str,
) -> None:
    """Call URI (sip:user@host:port) with a small softphone, and listen until the other side hangs up.

    Shows state, packets, loss, jitter and level while it listens. Exits with 3 when the call is not answered.
    """
    order = softphone.Order(
        uri=uri, text=text, voice=voice, language=language, record=record, seconds=seconds, codec=codec
    )
    try:
        outcome = asyncio.run(softphone.call(order, progress=_progress if sys.stderr.isatty() else None))
    except softphone.CallError as error:
        raise click.UsageError(str(error)) from error
    except KeyboardInterrupt:
        sys.exit(130)
    if sys.stderr.isatty():
        click.echo(err=True)
    click.echo(outcome.summary())
    if not outcome.answered:
        sys.exit(3)


def _progress(line: str) -> None:
    click.echo(f"\r\x1b[K{line}", nl=False, err=True)


@main.command()
@click.argument("text")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False, writable=True), required=True, help="WAV file."
)
@click.option("--voice", default="default", show_default=True, help="A voice of the engine.")
@click.option("--language", default="", help='Such as "de" or "en-GB".')
@click.option("--ssml", is_flag=True, help="TEXT is an SSML document.")
@click.option(
    "--rate", "rate_hz", type=click.Choice(["8000", "16000", "24000"]), default="24000", show_default=True, help="Hz."
)
@CONFIG_OPTION
def say(text: str, output: Path, voice: str, language: str, ssml: bool, rate_hz: str, path: Path | None) -> None:
    """Speak TEXT into a WAV file with the engine alone: no call, no server."""
    settings = _load(path)
    utterance = engines.Utterance(text=text, ssml=ssml, voice=voice, language=language, rate_hz=int(rate_hz))

    async def speak() -> bytes:
        async with server.open_engine(settings.engine) as engine:
            return b"".join([chunk.samples async for chunk in engine.synthesize(utterance)])

    try:
        samples = asyncio.run(speak())
    except engines.UnsuitableUtterance as error:
        raise click.UsageError(str(error)) from error
    except engines.EngineError as error:
        raise click.ClickException(str(error)) from error
    audio.write_wav(output, samples, rate_hz=utterance.rate_hz)
    click.echo(f"{output}: {len(samples) / 2 / utterance.rate_hz:.2f} s of speech at {utterance.rate_hz} Hz")


if __name__ == "__main__":
    main()
