"""The command line; `mediaserver --help` lists the commands, and what their exit codes mean."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import click

import engines
from mediaserver import audio, backup, capacity, config, doctor, logs, server, softphone
from mediaserver.store import Speaker, Store, StoreError

# A call that a signal ends is over by then, whatever hangs: twice the time that hanging up may take.
LAST_RESORT_S = 2 * softphone.GOODBYE_S

MARKS = {
    doctor.Standing.GOOD: ("+", "green"),
    doctor.Standing.ADVICE: ("!", "yellow"),
    doctor.Standing.FAULT: ("x", "red"),
}

CONFIG_OPTION = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file; deploy/mediaserver.toml shows every key. Without it the defaults apply.",
)


class Commands(click.Group):
    """Commands that Ctrl-C ends with 130, as in every shell."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)


class ConfigurationFault(click.ClickException):
    exit_code = 2


def _load(path: Path | None) -> config.Config:
    try:
        return config.load(path, os.environ)
    except config.ConfigError as error:
        raise ConfigurationFault(str(error)) from error


def _line(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    """Text for one field of the header of a call."""
    if text is None:
        return None
    line = softphone.one_line(text)
    try:
        size = len(line.encode())
    except UnicodeEncodeError as error:
        raise click.BadParameter("it is not UTF-8.") from error
    if not line:
        raise click.BadParameter("it is empty.")
    if size > softphone.LONGEST_FIELD_BYTES:
        raise click.BadParameter(
            f"it has {size} bytes of UTF-8. The header of a call has room for {softphone.LONGEST_FIELD_BYTES}."
        )
    return line


def _writable(_ctx: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    """A file that could be written now, and that is left as it is until there is something to write."""
    if path is None:
        return None
    try:
        if path.is_dir():
            raise click.BadParameter(f"{path} is a directory.")
        if not path.exists():
            # Nothing but creating it tells for sure. A link may lead to where there is nothing yet.
            place = Path(os.path.realpath(path))
            place.touch(exist_ok=False)
            place.unlink()
    except OSError as error:
        raise click.BadParameter(f"{path} cannot be written: {error.strerror}.") from error
    return path


def _write(path: Path, samples: bytes, *, rate_hz: int) -> None:
    try:
        audio.write_wav(path, samples, rate_hz=rate_hz)
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}.") from error


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""Exit codes:

    \b
    0    done
    1    it failed
    2    wrong usage or configuration
    3    the call was not answered
    130  ended by Ctrl-C (SIGINT)
    143  ended by SIGTERM; a server that SIGTERM or Ctrl-C ends has done its work, which is 0
    """,
)
@click.version_option(package_name="mediaserver")
def main() -> None:
    """A telephony media server: it answers SIP calls, and speaks.

    \b
    mediaserver serve                                     start it
    mediaserver call sip:hello@127.0.0.1 --text "Hello"   call it, and hear what it says
    mediaserver say "Hello" -o hello.wav                  only the speech
    mediaserver speakers backup FILE                      keep all speakers elsewhere
    mediaserver doctor                                    what this machine lacks
    mediaserver capacity --calls-per-day 30000            the machines that so many calls take
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
    if problems := asyncio.run(server.problems(settings)):
        raise ConfigurationFault("\n".join(problems))
    click.echo(f"{path or 'the defaults'}: good, with {len(settings.route)} route(s)")


@main.command("doctor")
@CONFIG_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def examine(path: Path | None, as_json: bool) -> None:
    """Look at this machine, and say what to change: ports, buffers, clocks, rights, Redis, GPU.

    Exits with 1 when something would keep the server from starting, or from what the configuration asks for.
    """
    settings = _load(path)
    try:
        findings = asyncio.run(_examine(settings))
    except config.ConfigError as error:
        raise ConfigurationFault(str(error)) from error
    if as_json:
        click.echo(
            json.dumps([dataclasses.asdict(finding) | {"standing": finding.standing.value} for finding in findings])
        )
    else:
        for finding in findings:
            mark, colour = MARKS[finding.standing]
            click.echo(f"{click.style(mark, fg=colour)} {finding.about:<20} {finding.seen}")
            if finding.do:
                click.echo(f"  {'':<20} -> {finding.do}")
    if any(finding.standing is doctor.Standing.FAULT for finding in findings):
        sys.exit(1)


async def _examine(settings: config.Config) -> list[doctor.Finding]:
    faults = [
        doctor.Finding(about="configuration", standing=doctor.Standing.FAULT, seen=problem, do="mend that key")
        for problem in await server.problems(settings)
    ]
    machine = await doctor.observe(settings, os.environ)
    return [*faults, *doctor.judge(settings, machine, files=server.wanted_files(settings.sip))]


@main.command()
@click.argument("uri", callback=_line)
@click.option(
    "--text",
    callback=_line,
    help="What the server is to say, sent in the header X-Speak. Without it: what its routes say.",
)
@click.option("--voice", callback=_line, help="The voice to say it with (X-Speaker).")
@click.option("--language", callback=_line, help='The language to say it in, such as "de" (X-Language).')
@click.option(
    "--record",
    type=click.Path(path_type=Path, writable=True),
    callback=_writable,
    metavar="FILE",
    help="Write what is heard to this WAV file (8 kHz, 16 bit, mono).",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    default=60.0,
    show_default=True,
    help="Hang up so many seconds after the answer.",
)
@click.option(
    "--ca",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="PEM file of the authority that a TLS server's certificate has to come from; by default the system's.",
)
@click.option("--codec", type=click.Choice(["PCMU", "PCMA"]), default="PCMU", show_default=True)
def call(
    uri: str,
    text: str | None,
    voice: str | None,
    language: str | None,
    record: Path | None,
    seconds: float,
    ca: Path | None,
    codec: str,
) -> None:
    """Call URI (sip:user@host:port) with a small softphone, and listen until the other side hangs up.

    Add ;transport=tcp or ;transport=tls to the URI to say how; a name without a port is located by NAPTR and SRV.

    Shows state, packets, loss, jitter and level while it listens. Ctrl-C hangs up, a second Ctrl-C leaves at once.
    Exits with 3 when the call is not answered.
    """
    order = softphone.Order(uri=uri, text=text, voice=voice, language=language, seconds=seconds, codec=codec, ca=ca)
    try:
        outcome, signalled = asyncio.run(_place(order))
    except softphone.CallError as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"there is no socket to call from: {error.strerror}.") from error
    if sys.stderr.isatty():
        click.echo(err=True)
    click.echo(outcome.summary())
    if record is not None and outcome.answered:
        if outcome.heard:
            _write(record, outcome.heard, rate_hz=audio.RATE_HZ)
            click.echo(f"Recorded {len(outcome.heard) / 2 / audio.RATE_HZ:.1f} s to {record}.")
        else:
            click.echo(f"Nothing was heard, so {record} is not written.")
    if signalled is not None:
        sys.exit(128 + signalled)
    if not outcome.answered:
        sys.exit(3)


async def _place(order: softphone.Order) -> tuple[softphone.Outcome, signal.Signals | None]:
    """The call, and the signal that ended it: the first SIGINT or SIGTERM hangs up, the second leaves at once."""
    loop = asyncio.get_running_loop()
    hang_up: asyncio.Future[None] = loop.create_future()
    signalled: signal.Signals | None = None

    def leave(number: signal.Signals) -> None:
        nonlocal signalled
        if hang_up.done():
            os._exit(128 + number)
        signalled = number
        hang_up.set_result(None)
        loop.call_later(LAST_RESORT_S, os._exit, 128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, leave, number)
    outcome = await softphone.call(order, progress=_progress if sys.stderr.isatty() else None, hang_up=hang_up)
    return outcome, signalled


def _progress(line: str) -> None:
    click.echo(f"\r\x1b[K{line}", nl=False, err=True)


@main.command()
@click.argument("text")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, writable=True),
    callback=_writable,
    metavar="FILE",
    required=True,
    help="WAV file.",
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
    if not samples:
        raise click.UsageError("the text contains nothing to say")
    _write(output, samples, rate_hz=utterance.rate_hz)
    click.echo(f"{output}: {len(samples) / 2 / utterance.rate_hz:.2f} s of speech at {utterance.rate_hz} Hz")


@main.group()
def models() -> None:
    """The published models of the engine chatterbox: what there is, fetching it, and whether it is whole."""


MODEL_ARGUMENT = click.argument("model", type=click.Choice(sorted(engines.published_models())))
DIRECTORY_OPTION = click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Of the files; chatterbox-MODEL by default. It is what engine.model names.",
)


@models.command("list")
def list_models() -> None:
    """Name the models, and where they are published."""
    for name, repository in engines.published_models().items():
        click.echo(f"{name:14}{repository}")


@models.command("download")
@MODEL_ARGUMENT
@DIRECTORY_OPTION
def download_model(model: str, directory: Path | None) -> None:
    """Fetch what is not there yet of a MODEL, and verify it. HF_ENDPOINT names a mirror."""
    directory = directory or Path(f"chatterbox-{model}")
    try:
        for name in engines.download_model(model, directory):
            click.echo(f"{directory / name}")
    except engines.EngineError as error:
        raise click.ClickException(str(error)) from error
    _verify(model, directory)


@models.command("verify")
@MODEL_ARGUMENT
@DIRECTORY_OPTION
def verify_model(model: str, directory: Path | None) -> None:
    """Hold the files of a MODEL against what it needs: each file, each tensor and its size."""
    _verify(model, directory or Path(f"chatterbox-{model}"))


def _verify(model: str, directory: Path) -> None:
    try:
        faults, random = engines.examine_model(model, directory)
    except engines.EngineError as error:
        raise click.ClickException(str(error)) from error
    if faults:
        raise click.ClickException("\n".join(faults))
    if random:
        click.echo("The weights are random numbers: what they make is noise, not speech.")
    click.echo(f'{model} is whole. In the configuration: engine.name = "chatterbox", engine.model = "{directory}"')


@main.group()
def speakers() -> None:
    """Keep the speakers of a store elsewhere, and bring them back. A server may run meanwhile."""


@speakers.command("backup")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@CONFIG_OPTION
def back_up_speakers(file: Path, path: Path | None) -> None:
    """Write all speakers, their recordings and embeddings to FILE, a tar archive. It is as private as they are."""
    count = _with_store(path, lambda store: backup.back_up(store, file, told=_name_speaker))
    click.echo(f"{file}: {count} speaker(s)")


@speakers.command("restore")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@CONFIG_OPTION
def restore_speakers(file: Path, path: Path | None) -> None:
    """Add the speakers of FILE that the store does not have. Who was deleted, here or there, stays deleted."""
    count = _with_store(path, lambda store: backup.restore(store, file, told=_name_speaker))
    click.echo(f"{file}: {count} speaker(s) restored")


def _with_store(path: Path | None, act: Callable[[Store], Awaitable[int]]) -> int:
    settings = _load(path)

    async def run() -> int:
        async with Store.open(settings.store.directory(os.environ)) as store:
            return await act(store)

    try:
        return asyncio.run(run())
    except config.ConfigError as error:
        raise ConfigurationFault(str(error)) from error
    except (backup.BackupError, StoreError) as error:
        raise click.ClickException(str(error)) from error


def _name_speaker(speaker: Speaker) -> None:
    if sys.stderr.isatty():
        click.echo(f"  {speaker.id}  {speaker.name}", err=True)


def _percent(_ctx: click.Context, _parameter: click.Parameter, percent: float) -> float:
    return percent / 100


_SHARE = click.FloatRange(0, 100)


@main.command("capacity")
@click.option("--calls-per-day", type=click.FloatRange(min=1), required=True, help="Of the busiest day.")
@click.option("--avg-seconds", "average_s", type=click.FloatRange(min=1), default=180.0, show_default=True)
@click.option(
    "--busy-hour",
    type=_SHARE,
    callback=_percent,
    default=15.0,
    show_default=True,
    help="Percentage of the day's calls that begin in its busiest hour.",
)
@click.option(
    "--blocking",
    type=click.FloatRange(0.000001, 99),
    callback=_percent,
    default=0.1,
    show_default=True,
    help="Percentage of the calls of that hour that may be refused for want of room.",
)
@click.option(
    "--speech",
    type=_SHARE,
    callback=_percent,
    default=50.0,
    show_default=True,
    help="Percentage of a call in which something is said to the caller.",
)
@click.option(
    "--cached",
    type=_SHARE,
    callback=_percent,
    default=0.0,
    show_default=True,
    help="Percentage of that which is heard from memory: prompts, and what was said before.",
)
@click.option("--cores", type=click.IntRange(min=1), default=2, show_default=True, help="Of each machine.")
@click.option(
    "--load",
    type=click.FloatRange(1, 100),
    callback=_percent,
    default=50.0,
    show_default=True,
    help="Percentage of its processors that a machine is to be busy with at most.",
)
@click.option("--max-calls", type=click.IntRange(min=1), default=1000, show_default=True, help="sip.max_calls.")
@click.option(
    "--rtp-ports", type=click.IntRange(min=2), default=10_000, show_default=True, help="Size of the range rtp.ports."
)
@click.option(
    "--streams-per-gpu",
    "gpu_streams",
    type=click.IntRange(min=1),
    help="Speech by GPUs, each with so many voices at a time: measure yours. Without it: by espeak-ng.",
)
@click.option("--spare", type=click.IntRange(min=0), default=1, show_default=True, help="Machines that may fail.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def tell_capacity(
    calls_per_day: float,
    average_s: float,
    busy_hour: float,
    blocking: float,
    speech: float,
    cached: float,
    cores: int,
    load: float,
    max_calls: int,
    rtp_ports: int,
    gpu_streams: int | None,
    spare: int,
    as_json: bool,
) -> None:
    """Say what machines so many calls take, from what calls were measured to cost (docs/BENCHMARKS.md).

    docs/CAPACITY.md says what is assumed, and works two examples.
    """
    demand = capacity.Demand(
        calls_per_day=calls_per_day,
        average_s=average_s,
        busy_hour=busy_hour,
        blocking=blocking,
        speech=speech,
        cached=cached,
    )
    node = capacity.Node(cores=cores, load=load, max_calls=max_calls, rtp_ports=rtp_ports, gpu_streams=gpu_streams)
    try:
        plan = capacity.plan(demand, node, spare=spare)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    click.echo(plan.to_json() if as_json else plan.to_text())


if __name__ == "__main__":
    main()
