"""Where a request goes: from a URI and answers of the DNS to targets in order (RFC 3263 sections 4.1 and 4.2).

`locate` asks its questions and is given the answers:

    rules = locate(uri, random=random)
    questions = next(rules)
    while True:
        questions = rules.send([resolve(question) for question in questions])

StopIteration carries the targets. So the rules need no network, and whoever has one may ask all questions of a round at
the same time.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from random import Random
from typing import NamedTuple

from .errors import LocalProtocolError
from .uri import Uri

__all__ = ["Answer", "Naptr", "Question", "RecordType", "Srv", "Target", "locate"]


class RecordType(enum.Enum):
    """What of a name is asked for."""

    NAPTR = "NAPTR"
    SRV = "SRV"
    A = "A"
    AAAA = "AAAA"


class Question(NamedTuple):
    name: str
    kind: RecordType


@dataclass(frozen=True, slots=True, kw_only=True)
class Naptr:
    """RFC 3403 section 4.1; `service` and `flags` in any case, as they came."""

    order: int
    preference: int
    flags: str
    service: str
    replacement: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Srv:
    """RFC 2782."""

    priority: int
    weight: int
    port: int
    target: str


# The records of a name; an address is text. None of them, or no answer at all: ().
Answer = Sequence[Naptr | Srv | str]


class Target(NamedTuple):
    """Where a request may go: `transport` is "UDP", "TCP" or "TLS", `host` a numeric address."""

    transport: str
    host: str
    port: int


# By service of a NAPTR record (RFC 3263 section 4.1), and the name of an SRV record by transport.
_SERVICES: Mapping[str, str] = {"SIP+D2U": "UDP", "SIP+D2T": "TCP", "SIPS+D2T": "TLS"}
_SRV_PREFIXES: Mapping[str, str] = {"UDP": "_sip._udp.", "TCP": "_sip._tcp.", "TLS": "_sips._tcp."}
_PORTS: Mapping[str, int] = {"UDP": 5060, "TCP": 5060, "TLS": 5061}
# A name that has more targets than this has more than anybody waits for.
_MOST = 16

Rounds = Generator[list[Question], list[Answer], tuple[Target, ...]]


def locate(
    uri: Uri,
    *,
    random: Random,
    transports: Sequence[str] = ("UDP", "TCP", "TLS"),
    families: Sequence[RecordType] = (RecordType.A, RecordType.AAAA),
) -> Rounds:
    """The targets of a request to `uri`, the best one first; none if it cannot be located.

    random      orders SRV records of one priority by their weight
    transports  that we can use, the ones that we prefer first
    families    of addresses that we can use, in the same way

    Raises LocalProtocolError if `uri` is no SIP URI, or wants a transport that there is not, or that we cannot use.
    """
    host = uri.parameters.value("maddr") or uri.host
    if uri.scheme not in ("sip", "sips") or not host:
        raise LocalProtocolError(f"not a SIP URI: {uri}")
    wanted = _wanted_transport(uri)
    if wanted is not None and wanted not in transports:
        raise LocalProtocolError(f"no transport for {uri}")
    usable = [each for each in transports if uri.scheme == "sip" or each == "TLS"]
    if not usable:
        raise LocalProtocolError(f"no transport for {uri}")
    # What is used where nothing says otherwise (section 4.1).
    default = wanted or ("TLS" if uri.scheme == "sips" else next((each for each in usable if each == "UDP"), usable[0]))
    if (address := _numeric(host)) is not None:
        return (Target(default, address, uri.port or _PORTS[default]),)
    name = host.rstrip(".")
    if uri.port is not None:
        return (yield from _addresses([(default, name, uri.port)], families))
    services = [] if wanted else (yield from _naptr(name, usable))
    if not services:
        services = [(each, _SRV_PREFIXES[each] + name) for each in ([wanted] if wanted else usable)]
    answers = yield [Question(service, RecordType.SRV) for _, service in services]
    found = [
        (transport, [record for record in answer if isinstance(record, Srv)])
        for (transport, _), answer in zip(services, answers, strict=True)
    ]
    if not any(records for _, records in found):
        return (yield from _addresses([(default, name, _PORTS[default])], families))
    hosts = [
        (transport, record.target.rstrip("."), record.port)
        for transport, records in found
        for record in _ordered(records, random)
    ]
    return (yield from _addresses(hosts[:_MOST], families))


def _wanted_transport(uri: Uri) -> str | None:
    """The transport that `uri` asks for."""
    if not uri.transport:
        return None
    transport = uri.transport.upper()
    if uri.scheme == "sips":
        # RFC 3261 section 19.1.2: over TCP a sips URI means TLS; it cannot be had over UDP.
        transport = {"TCP": "TLS", "UDP": "nothing"}.get(transport, transport)
    if transport not in _PORTS:
        raise LocalProtocolError(f"no transport for {uri}")
    return transport


def _naptr(name: str, usable: Sequence[str]) -> Generator[list[Question], list[Answer], list[tuple[str, str]]]:
    """The services of a domain that we can use: transport and the name of the SRV records, in the domain's order."""
    (answer,) = yield [Question(name, RecordType.NAPTR)]
    records = sorted(
        (record for record in answer if isinstance(record, Naptr)),
        key=lambda record: (record.order, record.preference),
    )
    return [
        (transport, record.replacement.rstrip("."))
        for record in records
        if record.flags.lower() == "s" and (transport := _SERVICES.get(record.service.upper())) in usable
        # The condition says that there is one, which the type does not.
        if transport is not None
    ][:_MOST]


def _ordered(records: Iterable[Srv], random: Random) -> list[Srv]:
    """By priority, and within one at random by weight (RFC 2782); a target of "." is none: there is no such service."""
    ordered: list[Srv] = []
    able = sorted((record for record in records if record.target not in ("", ".")), key=lambda record: record.priority)
    for _, group in groupby(able, key=lambda record: record.priority):
        # Those of weight 0 first, so that they keep a small chance.
        left = sorted(group, key=lambda record: record.weight)
        while left:
            pick = random.randint(0, sum(record.weight for record in left))
            total = 0
            for record in left:
                total += record.weight
                if total >= pick:
                    break
            left.remove(record)
            ordered.append(record)
    return ordered


def _addresses(hosts: Sequence[tuple[str, str, int]], families: Sequence[RecordType]) -> Rounds:
    """The addresses of (transport, host name, port), in this order, and within one host by family."""
    names = dict.fromkeys(name for _, name, _ in hosts if _numeric(name) is None)
    questions = [Question(name, family) for name in names for family in families]
    answers = (yield questions) if questions else []
    found: dict[str, list[str]] = {name: [] for name in names}
    for question, answer in zip(questions, answers, strict=True):
        found[question.name] += [record for record in answer if isinstance(record, str)]
    targets = dict.fromkeys(
        Target(transport, address, port) for transport, name, port in hosts for address in found.get(name, [name])
    )
    return tuple(targets)[:_MOST]


def _numeric(host: str) -> str | None:
    """`host` if it is an address and no name."""
    try:
        return str(ipaddress.ip_address(host.removeprefix("[").removesuffix("]")))
    except ValueError:
        return None
