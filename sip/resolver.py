"""The DNS, as `locate` wants it asked: answers are remembered for their TTL, and the hosts file comes first."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

import dns.asyncresolver
import dns.exception
import dns.name
import dns.resolver
from dns.rdata import Rdata
from dns.rdtypes.IN.NAPTR import NAPTR
from dns.rdtypes.IN.SRV import SRV

from .errors import SipError
from .locate import Answer, Naptr, Question, RecordType, Srv, Target, locate
from .uri import Uri

__all__ = ["NotLocated", "Resolver"]

_HOSTS_FILE = Path("/etc/hosts")
_REMEMBERED = 1024
# Names of this machine, whatever the hosts file says (RFC 6761 section 6.3).
_LOCALHOST: Mapping[RecordType, Answer] = {RecordType.A: ("127.0.0.1",), RecordType.AAAA: ("::1",)}


class NotLocated(SipError):
    """The DNS has no address for a peer, or does not answer."""


class Resolver:
    """Locates peers.

    Arguments:

    random       orders SRV records, see `locate`
    nameservers  addresses of them; those of /etc/resolv.conf if it is None
    port         theirs
    timeout_s    for the answer to one question, all tries included
    """

    def __init__(
        self,
        *,
        random: Random,
        nameservers: Sequence[str] | None = None,
        port: int = 53,
        timeout_s: float = 3.0,
        hosts_file: Path = _HOSTS_FILE,
    ) -> None:
        self._random = random
        self._dns = dns.asyncresolver.Resolver(configure=False)
        if nameservers is None:
            # Without that file there is no DNS; addresses and the hosts file still work.
            with contextlib.suppress(dns.exception.DNSException):
                self._dns.read_resolv_conf("/etc/resolv.conf")
        else:
            self._dns.nameservers = list(nameservers)
        self._dns.port = port
        self._dns.timeout = timeout_s / 3
        self._dns.lifetime = timeout_s
        # Obeys the TTL, that of negative answers (RFC 2308) too.
        self._dns.cache = dns.resolver.LRUCache(_REMEMBERED)
        self._hosts_file = hosts_file
        self._hosts_read: tuple[int, int] | None = None
        self._hosts: dict[str, list[str]] = {}

    async def locate(
        self,
        uri: Uri,
        *,
        transports: Sequence[str] = ("UDP", "TCP", "TLS"),
        families: Sequence[RecordType] = (RecordType.A, RecordType.AAAA),
    ) -> tuple[Target, ...]:
        """The targets of a request to `uri`, the best one first, by what we can use and in the order we prefer it in.

        Raises NotLocated if there are none, LocalProtocolError as the function `locate` does.
        """
        rules = locate(uri, random=self._random, transports=transports, families=families)
        unanswered = False
        try:
            questions = next(rules)
            while True:
                answers = await asyncio.gather(*map(self._ask, questions))
                unanswered |= None in answers
                questions = rules.send([answer or () for answer in answers])
        except StopIteration as done:
            targets: tuple[Target, ...] = done.value
        if not targets:
            why = "the DNS does not answer" if unanswered else "it has no address"
            raise NotLocated(f"{uri.parameters.value('maddr') or uri.host} cannot be located: {why}")
        return targets

    async def _ask(self, question: Question) -> Answer | None:
        """The answer, () if there is none, None if nobody says whether there is one."""
        name, kind = question
        known = self._known(name.lower(), kind)
        if known is not None:
            return known
        # As every other program of this machine looks for a host; what services a domain has is asked of itself only.
        is_host = kind in (RecordType.A, RecordType.AAAA)
        try:
            wanted = dns.name.from_text(name, origin=None if is_host else dns.name.root)
            answer = await self._dns.resolve(wanted, kind.value, raise_on_no_answer=False, search=is_host)
        except (dns.resolver.NXDOMAIN, dns.resolver.YXDOMAIN, UnicodeError):
            return ()
        except (dns.name.LabelTooLong, dns.name.NameTooLong, dns.name.EmptyLabel, dns.name.BadEscape):
            return ()
        except (dns.exception.DNSException, OSError):
            return None
        return tuple(_record(record) for record in answer.rrset or ())

    def _known(self, name: str, kind: RecordType) -> Answer | None:
        """What is known of a name without the DNS; None if that is nothing."""
        host = name
        if kind is RecordType.SRV:
            host = name.split(".", 2)[-1]
        if host == "localhost" or host.endswith(".localhost"):
            return _LOCALHOST.get(kind, ())
        addresses = self._hosts_now().get(host)
        if addresses is None:
            return None
        if kind not in _LOCALHOST:
            return ()
        return tuple(address for address in addresses if (":" in address) is (kind is RecordType.AAAA))

    def _hosts_now(self) -> Mapping[str, Sequence[str]]:
        try:
            status = self._hosts_file.stat()
            version = (status.st_mtime_ns, status.st_size)
            if version != self._hosts_read:
                self._hosts = _hosts(self._hosts_file.read_text(encoding="utf-8", errors="replace"))
                self._hosts_read = version
        except OSError:
            self._hosts, self._hosts_read = {}, None
        return self._hosts


def _hosts(text: str) -> dict[str, list[str]]:
    """The addresses of each name, in lower case, of a hosts file (hosts(5))."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        for name in names:
            found.setdefault(name.lower(), []).append(address.partition("%")[0])
    return found


def _record(record: Rdata) -> Naptr | Srv | str:
    if isinstance(record, SRV):
        return Srv(priority=record.priority, weight=record.weight, port=record.port, target=record.target.to_text())
    if isinstance(record, NAPTR):
        return Naptr(
            order=record.order,
            preference=record.preference,
            flags=record.flags.decode("latin-1"),
            service=record.service.decode("latin-1"),
            replacement=record.replacement.to_text(),
        )
    return record.to_text()
