"""Fetching: from listed hosts alone, at addresses that were looked at, over redirects too."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.test_utils import TestServer

from mediaserver import config
from mediaserver.fetch import Fetcher, FetchError, Forbidden, Resolver


class Names(AbstractResolver):
    """A DNS that tells of each name one list of addresses after the other, and the last one for ever."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self.answers = {name.replace("_", "."): list(lists) for name, lists in answers.items()}
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        answers = self.answers.get(host, [[]])
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        if not addresses:
            raise OSError(None, "there is no such name")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is open."""


async def answer(request: web.Request) -> web.StreamResponse:
    match request.path:
        case "/words":
            return web.Response(text=f"{request.host} asked")
        case "/to":
            raise web.HTTPFound(request.query["uri"])
        case "/round":
            raise web.HTTPTemporaryRedirect("/round")
        case "/cookie":
            response = web.HTTPFound("/told")
            response.set_cookie("a", "b")
            raise response
        case "/told":
            return web.Response(text=str(dict(request.cookies)))
        case "/large":
            return web.Response(body=bytes(5000))
        case _:
            raise web.HTTPNotFound


@asynccontextmanager
async def site() -> AsyncIterator[TestServer]:
    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as server:
        yield server


def settings(*hosts: str, **keys: object) -> config.Fetch:
    return config.Fetch.model_validate({"allow_hosts": hosts, **keys})


HERE = {"allow_networks": ["127.0.0.0/8"]}


async def test_a_listed_name_is_fetched_from_the_address_that_was_looked_at() -> None:
    names = Names(a_example=[["127.0.0.1"], ["192.0.2.1"]])
    async with site() as server, Fetcher(settings("a.example", **HERE), names=names) as fetcher:
        media_type, charset, body = await fetcher.get(f"http://a.example:{server.port}/words")
        assert (media_type, charset, body) == ("text/plain", "utf-8", f"a.example:{server.port} asked".encode())
    assert names.asked == ["a.example"], "it is resolved once, so that no second answer counts"


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.0.0.1"],
        ["172.16.0.1"],
        ["192.168.1.1"],
        ["169.254.169.254"],
        ["100.64.0.1"],
        ["0.0.0.0"],
        ["224.0.0.1"],
        ["255.255.255.255"],
        ["::1"],
        ["::"],
        ["fe80::1%2"],
        ["fc00::1"],
        ["ff0e::1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["64:ff9b:1::808:808"],
        ["2002:7f00:1::"],
        ["93.184.216.34", "127.0.0.1"],
    ],
)
async def test_a_name_that_leads_to_an_address_that_is_not_public_is_forbidden(addresses: list[str]) -> None:
    names = Names(a_example=[addresses])
    async with Fetcher(settings("a.example"), names=names) as fetcher:
        with pytest.raises(Forbidden, match=r"leads to .*fetch\.allow_networks"):
            await fetcher.get("http://a.example/words")


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822", "::ffff:93.184.216.34"]
)
async def test_a_name_with_public_addresses_is_resolved(address: str) -> None:
    (found,) = await Resolver([], Names(a_example=[[address]])).resolve("a.example", 80)
    assert found["host"] == address


async def test_an_allowed_network_is_allowed_behind_ipv6_too() -> None:
    resolver = Resolver(config.Fetch.model_validate(HERE).allow_networks, Names(a_example=[["::ffff:127.0.0.1"]]))
    assert len(await resolver.resolve("a.example", 80)) == 1


@pytest.mark.parametrize(
    "uri", ["http://127.1:{port}/words", "http://0x7f000001:{port}/words", "http://2130706433:{port}/"]
)
async def test_an_address_in_disguise_is_not_asked(uri: str) -> None:
    async with site() as server, Fetcher(settings("127.1", "0x7f000001", "2130706433")) as fetcher:
        with pytest.raises(FetchError):
            await fetcher.get(uri.format(port=server.port))


async def test_a_listed_address_stands_for_itself() -> None:
    async with site() as server, Fetcher(settings("127.0.0.1")) as fetcher:
        assert (await fetcher.get(f"http://127.0.0.1:{server.port}/words"))[2].startswith(b"127.0.0.1")


@pytest.mark.parametrize(
    "uri",
    [
        "http://b.example/",
        "http://a.example.b.example/",
        "http://a.example./",
        "http://a.example@b.example/",
        "http://b.example#@a.example/",
        "http://b.example?@a.example/",
        "http:///words",
        "http://[::1]/",
    ],
)
async def test_a_host_that_is_not_listed_is_forbidden(uri: str) -> None:
    names = Names()
    async with Fetcher(settings("a.example"), names=names) as fetcher:
        with pytest.raises(Forbidden, match=r"fetch\.allow_hosts"):
            await fetcher.get(uri)
    assert names.asked == []


@pytest.mark.parametrize(
    "uri", ["http://b.example\\@a.example/", "ftp://a.example/", "file:///etc/passwd", "http://[", "a.example", ""]
)
async def test_what_is_no_address_of_http_is_not_fetched(uri: str) -> None:
    names = Names()
    async with Fetcher(settings("a.example"), names=names) as fetcher:
        with pytest.raises(FetchError):
            await fetcher.get(uri)
    assert names.asked == []


async def test_a_redirect_is_followed_to_listed_hosts() -> None:
    names = Names(a_example=[["127.0.0.1"]], b_example=[["127.0.0.1"]])
    async with site() as server, Fetcher(settings("a.example", "b.example", **HERE), names=names) as fetcher:
        there = f"http://b.example:{server.port}/words"
        for target in (there, f"//b.example:{server.port}/words", f"/to?uri={there}"):
            _, _, body = await fetcher.get(f"http://a.example:{server.port}/to?uri={target}")
            assert body == f"b.example:{server.port} asked".encode()


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("http://elsewhere.example/", Forbidden),
        ("http://127.0.0.1:{port}/words", Forbidden),
        ("http://inside.example:{port}/words", Forbidden),
        ("file:///etc/passwd", FetchError),
        ("http://[", FetchError),
        ("/round", FetchError),
    ],
)
async def test_a_redirect_leads_nowhere_that_could_not_be_asked_at_once(target: str, kind: type[FetchError]) -> None:
    names = Names(a_example=[["127.0.0.1"]], inside_example=[["10.0.0.1"]])
    async with site() as server, Fetcher(settings("a.example", "inside.example", **HERE), names=names) as fetcher:
        with pytest.raises(kind):
            await fetcher.get(f"http://a.example:{server.port}/to?uri={target.format(port=server.port)}")


async def test_a_cookie_goes_nowhere() -> None:
    names = Names(a_example=[["127.0.0.1"]])
    async with site() as server, Fetcher(settings("a.example", **HERE), names=names) as fetcher:
        assert (await fetcher.get(f"http://a.example:{server.port}/cookie"))[2] == b"{}"


async def test_what_is_too_large_or_not_there_says_so() -> None:
    names = Names(a_example=[["127.0.0.1"]])
    async with site() as server, Fetcher(settings("a.example", max_bytes=4999, **HERE), names=names) as fetcher:
        with pytest.raises(FetchError, match=r"larger than fetch\.max_bytes \(4999\)"):
            await fetcher.get(f"http://a.example:{server.port}/large")
        with pytest.raises(FetchError, match=r"a\.example answered 404"):
            await fetcher.get(f"http://a.example:{server.port}/nothing")
    async with Fetcher(settings("nowhere.example"), names=Names()) as fetcher:
        with pytest.raises(FetchError, match="ClientConnectorDNSError"):
            await fetcher.get("http://nowhere.example/")


async def test_what_is_told_of_an_address_opens_nothing() -> None:
    names = Names(a_example=[["127.0.0.1"]])
    async with site() as server, Fetcher(settings("a.example", **HERE), names=names) as fetcher:
        with pytest.raises(FetchError) as raised:
            await fetcher.get(f"http://ada:secret@a.example:{server.port}/round?signature=secret#secret")
        assert str(raised.value) == f"'http://a.example:{server.port}/round': more than 5 redirects"
    async with Fetcher(settings("nowhere.example"), names=Names()) as fetcher:
        for uri in ("http://nowhere.example/?secret", "http://[secret", "secret"):
            with pytest.raises(FetchError) as raised:
                await fetcher.get(uri)
            assert "secret" not in str(raised.value)
