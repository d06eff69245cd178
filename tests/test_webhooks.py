"""Webhooks that are told what happens to calls: by a real server, about real calls, whatever their manners are."""

from __future__ import annotations

import asyncio
import base64
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from standardwebhooks import WebhookVerificationError

from mediaserver import config, signature
from mediaserver.events import EventLog
from mediaserver.posting import PostError, Posting
from mediaserver.server import Server, StartError
from mediaserver.webhooks import Webhooks
from tests.live import serving, until_calls
from tests.test_calls_api import api
from tests.test_mediaserver_fetch import Names
from tests.test_referrals import phone
from tests.webhook_support import (
    KEY,
    OTHER_SECRET,
    SECRET,
    Manners,
    drip,
    entry,
    flood,
    hook,
    never,
    slam,
    status,
)

QUIET: dict[str, Any] = {"engine": {"name": "tone"}}
STORY = ["call.created", "call.ringing", "call.answered", "speech.started", "speech.ended", "call.ended", "call.record"]


def counted(running: Server, name: str, **labels: str) -> float:
    """A sample of the metrics."""
    text = running.switchboard._means.metrics.exposition()[0].decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return float(sample.value)
    raise KeyError(name)


def messages(running: Server, result: str) -> float:
    return counted(running, "webhook_messages_total", webhook="crm", result=result)


async def until_delivered(running: Server, count: int) -> None:
    async with asyncio.timeout(5):
        while messages(running, "delivered") < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_what_happens_to_a_call_is_told_in_order_with_its_record_and_verifies() -> None:
    async with hook() as crm, serving(webhook=[entry(crm)], **QUIET) as running, api(running) as client:
        async with phone() as callee:
            id = await client.place(callee.uri, text="a")
            await crm.until(lambda crm: "call.record" in crm.kinds())
        assert crm.kinds(id) == STORY
        assert crm.frauds == []
        assert len(set(crm.ids)) == len(STORY)
        await until_delivered(running, len(STORY))
    created, record = crm.told[0], crm.told[-1]["details"]
    assert created["details"]["to"] == callee.uri
    assert (record["id"], record["end"]["reason"], record["to"]) == (id, "completed", callee.uri)
    assert (record["media"]["codec"], record["speech"][0]["state"]) == ("PCMU", "spoken")
    assert "text" not in record["speech"][0], "what was said is nobody's business unless calls.record_text says so"


async def test_a_webhook_is_told_the_kinds_that_it_wants() -> None:
    async with hook() as crm, hook() as other, phone() as callee:
        wanting = [entry(crm, events=["call.record"]), entry(other, name="other", events=["speech.*", "call.ended"])]
        async with serving(webhook=wanting, calls={"record_text": True}, **QUIET) as running, api(running) as client:
            await client.ended(await client.place(callee.uri, text="Hello."))
    assert crm.kinds() == ["call.record"]
    assert crm.told[0]["details"]["speech"][0]["text"] == "Hello."
    assert other.kinds() == ["speech.started", "speech.ended", "call.ended"]


def test_a_signature_is_that_of_the_standard() -> None:
    """The example of Standard Webhooks 1.0.0."""
    key = signature.key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    headers = signature.headers_of("msg_p5jXN8AQM9LWM0D4loKWxJek", body, keys=[key], time_s=1614265330)
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


async def test_an_old_and_a_new_secret_are_good_together_and_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "secrets"
    file.write_text(f"{OTHER_SECRET}\n{SECRET}\n")
    async with hook() as crm, phone() as callee:
        named = {"name": "crm", "url": crm.url, "secret_file": file, "events": ["call.created"]}
        async with serving(webhook=[named], **QUIET) as running, api(running) as client:
            await client.place(callee.uri, text="a")
            await crm.until(lambda crm: len(crm.told) == 1)
            file.write_text(OTHER_SECRET)
            running.reload()
            await client.place(callee.uri, text="a")
            await crm.until(lambda crm: len(crm.frauds) == 1)
            file.write_text("whsec_short")
            running.reload()
            crm.secret = OTHER_SECRET
            await client.place(callee.uri, text="a")
            await crm.until(lambda crm: len(crm.told) >= 2)
    assert isinstance(crm.frauds[0], WebhookVerificationError)


async def test_a_message_that_failed_comes_again_under_the_same_id_and_later_ones_wait_for_it() -> None:
    ids = []

    async def once(request: Any) -> Any:
        ids.append(request.headers["webhook-id"])
        return await status(500)(request)

    async with hook() as crm, phone() as callee:
        crm.manners = [once, status(204)]
        async with serving(webhook=[entry(crm)], **QUIET) as running, api(running) as client:
            id = await client.place(callee.uri, text="a")
            await crm.until(lambda crm: "call.record" in crm.kinds())
            await until_delivered(running, len(STORY))
            assert counted(running, "webhook_attempts_total", webhook="crm") == len(STORY) + 1
    assert crm.kinds(id) == STORY
    assert crm.ids[0] == ids[0]


@pytest.mark.parametrize("manners", [never, drip, slam, status(302, Location="http://127.0.0.1:1/"), status(503)])
async def test_a_call_is_not_harmed_by_a_webhook_of_bad_manners(manners: Manners) -> None:
    async with hook() as crm, phone() as callee:
        crm.manners = manners
        async with serving(webhook=[entry(crm, timeout_s=0.5)], **QUIET) as running, api(running) as client:
            told = await client.ended(await client.place(callee.uri, text="a"))
            assert told["end"]["reason"] == "completed"
            assert told["media"]["underruns"] == 0
            await crm.until(lambda crm: crm.requests >= 1)
            stopping = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - stopping < 5
    assert crm.told == []


@pytest.mark.parametrize("manners", [flood, drip])
async def test_an_accepted_message_is_accepted_whatever_comes_with_it(manners: Manners) -> None:
    """The status is there before the body, and that is all that counts."""
    async with hook() as crm, phone() as callee:
        crm.manners = manners
        settings = entry(crm, events=["call.created"], timeout_s=2)
        async with serving(webhook=[settings], **QUIET) as running, api(running) as client:
            await client.place(callee.uri, text="a")
            await until_delivered(running, 1)


async def test_no_redirect_is_followed() -> None:
    async with hook() as inside, hook() as crm, phone() as callee:
        crm.manners = status(307, Location=inside.url)
        async with serving(webhook=[entry(crm)], **QUIET) as running, api(running) as client:
            await client.ended(await client.place(callee.uri, text="a"))
            await crm.until(lambda crm: crm.requests >= 2)
    assert inside.requests == 0


async def test_a_webhook_that_is_gone_is_told_nothing_more(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with hook() as crm, phone() as callee:
        crm.manners = status(410)
        async with serving(webhook=[entry(crm)], **QUIET) as running, api(running) as client:
            for _ in range(2):
                await client.ended(await client.place(callee.uri, text="a"))
            await until_calls(running, 0)
            assert messages(running, "dropped") == 2 * len(STORY)
    assert crm.requests == 1
    assert (capsys.readouterr().out + caplog.text).count("(410)") == 1


async def test_a_webhook_that_is_started_anew_hears_what_it_has_missed() -> None:
    async with (
        hook() as crm,
        phone() as callee,
        serving(webhook=[entry(crm)], **QUIET) as running,
        api(running) as client,
    ):
        first = await client.place(callee.uri, text="a")
        await crm.until(lambda crm: "call.record" in crm.kinds())
        await crm.stop()
        second = await client.place(callee.uri, text="a")
        await client.ended(second)
        await crm.start()
        await crm.until(lambda crm: crm.kinds(second) == STORY)
        assert messages(running, "failed") == messages(running, "dropped") == 0
    assert crm.kinds(first) == STORY


async def test_thousands_of_events_for_a_dead_webhook_take_bounded_memory_and_are_told_of_once(
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with hook() as crm, phone() as callee:
        await crm.stop()
        limit = 262_144
        async with serving(webhook=[entry(crm, max_bytes=limit)], **QUIET) as running, api(running) as client:
            log = running.switchboard._means.events
            id = await client.place(callee.uri, text="a", then="stay")
            await client.up(id)
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            began = asyncio.get_running_loop().time()
            for number in range(20_000):
                log.publish("speech.started", f"call_{number % 500}", {"id": "utt_1", "state": "speaking"})
            took_s = asyncio.get_running_loop().time() - began
            grown = tracemalloc.get_traced_memory()[0] - before
            tracemalloc.stop()
            assert grown < 4 * limit + 2_000_000, "the log of events itself keeps 2,000"
            assert took_s < 20
            assert messages(running, "dropped") > 15_000
            assert counted(running, "webhook_waiting", webhook="crm") < limit / 500
            assert (await client.call(id))["media"]["underruns"] == 0
    assert (capsys.readouterr().out + caplog.text).count("messages are not delivered") == 1


async def test_what_waits_is_told_before_the_server_ends() -> None:
    async with hook() as crm, phone() as callee:
        crm.manners = status(204)
        async with serving(webhook=[entry(crm)], **QUIET) as running, api(running) as client:
            await client.up(await client.place(callee.uri, text="a", then="stay"))
    assert crm.kinds()[-2:] == ["call.ended", "call.record"]
    assert crm.told[-1]["details"]["end"]["reason"] == "shutdown"


async def test_secrets_and_addresses_reach_no_log_and_no_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    async with hook() as crm, phone() as callee:
        crm.manners = status(400)
        hidden = crm.url + "/hidden-path?key=hidden-key"
        settings = entry(crm, url=hidden)
        async with serving(webhook=[settings], log={"level": "debug"}, **QUIET) as running, api(running) as client:
            await client.ended(await client.place(callee.uri, text="a"))
            await crm.until(lambda crm: crm.requests >= 2)
            shown = repr(running.settings) + running.settings.model_dump_json(fallback=str)
            shown += running.switchboard._means.metrics.exposition()[0].decode()
    shown += "".join(capsys.readouterr())
    for url in ("http://user:hidden@crm.example/", "hidden://crm.example/", "https:///hidden"):
        with pytest.raises(ValueError, match="webhook") as refused:
            config.Config.model_validate({"webhook": [entry(crm, url=url)]})
        shown += str(config._explain(refused.value))  # type: ignore[arg-type]
    file = tmp_path / "secret"
    file.write_text("whsec_hidden")
    with pytest.raises(config.ConfigError) as unusable:
        config.Webhook(name="crm", url=crm.url, secret_file=file).keys()  # type: ignore[arg-type]
    shown += str(unusable.value)
    assert "hidden" not in shown.replace(str(file), "")
    assert SECRET not in shown
    assert base64.b64encode(KEY).decode() not in shown


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"secret": None}, "give secret or secret_file"),
        ({"secret_file": "x"}, "give one of secret and secret_file"),
        ({"secret": "whsec_c2hvcnQ="}, "24 to 64 octets in base64"),
        ({"secret": SECRET.removeprefix("whsec_")}, 'write it as "whsec_"'),
        ({"url": "ftp://a.example/"}, 'write it as "https://host/path"'),
        ({"url": "https://a.example/#x"}, 'write it as "https://host/path"'),
        ({"url": "https://a:b@a.example/"}, "leave user and password out"),
        ({"events": ["call.hung_up"]}, "there is no such event; there are call.created"),
        ({"events": []}, "events: "),
        ({"name": "a b"}, "name: "),
        ({"retries": 3}, "retries: unknown key"),
    ],
)
def test_a_mistake_in_a_webhook_is_named(keys: dict[str, Any], complaint: str) -> None:
    settings = {"name": "crm", "url": "https://crm.example/", "secret": SECRET} | keys
    with pytest.raises(config.ConfigError, match=r"webhook\.0") as caught:
        config._checked(config.Config, {"webhook": [settings]}, "test.toml")
    assert complaint in str(caught.value)


def test_two_webhooks_have_two_names() -> None:
    settings = {"name": "crm", "url": "https://crm.example/", "secret": SECRET}
    with pytest.raises(config.ConfigError, match="webhook: two are named crm"):
        config._checked(config.Config, {"webhook": [settings, settings]}, "test.toml")


async def test_a_secret_file_that_cannot_be_read_is_named_at_the_start(tmp_path: Path) -> None:
    named = {"name": "crm", "url": "https://crm.example/", "secret_file": tmp_path / "none"}
    with pytest.raises(StartError, match=r"webhook: secret_file: .*none: cannot be read"):
        async with serving(webhook=[named], **QUIET):
            pass


def posting(*, names: Names, known: tuple[str, ...] = (), **keys: Any) -> Posting:
    return Posting(config.Webhooks.model_validate(keys), known=known, product="test", names=names)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1"])
async def test_a_name_that_leads_to_private_addresses_is_not_asked_even_if_the_configuration_has_it(
    address: str,
) -> None:
    async with hook() as crm, posting(names=Names(crm_example=[[address]])) as client:
        with pytest.raises(PostError, match=r"webhooks\.allow_networks"):
            await client.post(f"http://crm.example:{crm.port}/", "1", b"{}", keys=[KEY], timeout_s=2)
    assert crm.requests == 0


async def test_a_name_is_looked_at_for_each_new_connection() -> None:
    names = Names(crm_example=[["127.0.0.1"], ["10.0.0.1"]])
    async with hook() as crm, posting(names=names, allow_networks=["127.0.0.0/8"]) as client:
        url = f"http://crm.example:{crm.port}/"
        assert (await client.post(url, "1", b'{"type": ""}', keys=[KEY], timeout_s=2)).status == 204
        await crm.stop()
        with pytest.raises(PostError, match=r"10\.0\.0\.1"):
            await client.post(url, "1", b"{}", keys=[KEY], timeout_s=2, persist=True)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://crm.example/other", True),
        ("https://crm.example:443/", True),
        ("http://crm.example/", False),
        ("https://crm.example:8443/", False),
        ("https://b.example:8443/", True),
        ("http://B.example/", True),
        ("http://b.example@c.example/", False),
        ("http://c.example/?b.example", False),
        ("http://b.example.c.example/", False),
        ("ftp://b.example/", False),
        ("//b.example/", False),
        ("b.example", False),
        ("http://[", False),
        ("", False),
        ("http://127.0.0.1/", False),
    ],
)
async def test_others_may_name_the_origins_of_the_configuration_and_listed_hosts(url: str, allowed: bool) -> None:
    async with posting(names=Names(), known=("https://crm.example/hook",), allow_hosts=["b.example"]) as client:
        assert client.allows(url) == allowed


async def test_an_answer_is_read_up_to_its_limit_and_retry_after_in_both_forms() -> None:
    async with hook(secret=None) as crm, posting(names=Names()) as client:
        for value, least, most in (
            ("7", 7, 7),
            ("Wed, 21 Oct 2099 07:28:00 GMT", 1e9, 1e10),
            ("soon", 0, 0),
            ("-1", 0, 0),
        ):
            crm.manners = status(503, Retry_After=value)
            reply = await client.post(crm.url, "1", b"{}", keys=[], timeout_s=2)
            assert least <= reply.retry_after_s <= most
        crm.manners = flood
        with pytest.raises(PostError, match="larger than 1000 octets"):
            await client.post(crm.url, "1", b"{}", keys=[], timeout_s=2, max_bytes=1000)


async def test_who_persists_asks_until_a_server_is_there_again_within_the_same_time() -> None:
    async with hook(secret=None) as crm, posting(names=Names()) as client:
        crm.manners = [slam, slam, status(200)]
        await client.post(crm.url, "1", b'{"type": ""}', keys=[], timeout_s=5, persist=True)
        assert crm.requests == 3
        await crm.stop()
        asked = asyncio.ensure_future(client.post(crm.url, "2", b"{}", keys=[], timeout_s=5, persist=True))
        await asyncio.sleep(0.2)
        await crm.start()
        assert (await asked).status == 200
        await crm.stop()
        with pytest.raises(PostError, match=r"within 0\.3 s"):
            await client.post(crm.url, "3", b"{}", keys=[], timeout_s=0.3, persist=True)
        with pytest.raises(PostError, match="ClientConnectorError"):
            await client.post(crm.url, "3", b"{}", keys=[], timeout_s=0.3)


async def test_the_end_does_not_wait_for_a_webhook_that_is_away() -> None:
    async with hook() as crm, posting(names=Names()) as client:
        await crm.stop()
        settings = config.Webhook.model_validate(entry(crm))
        async with Webhooks([settings], client, with_text=False) as told:
            log = EventLog()
            log.tell(told.tell)
            log.publish("call.created", "call_1", {"odd": object()})
            attempts = told.families()[1]
            async with asyncio.timeout(5):
                while not attempts.samples[0].value:
                    await asyncio.sleep(0.01)
                    attempts = told.families()[1]
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 1
        (waiting,) = told.families()[2].samples
        assert waiting.value == 1
