"""The console in a real browser, on a real server with real calls: what an operator does, by mouse and by keyboard."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

import engines
import sip
from mediaserver import server
from tests.axe import violations
from tests.chromium import ChromiumError, Page, chromium, needs_chromium
from tests.live import OFFER, heard, serving
from tests.speakers_support import RATE_HZ, somebody, wav_of
from tests.test_calls_api import api
from tests.test_calls_verbs import friend
from tests.test_referrals import phone

pytestmark = needs_chromium

WORDS = "Welcome to the harbour office. All of our lines are open from nine to five, and the tide tables are read out."
STAYS = [{"user": "hello", "say": WORDS, "then": "stay", "stay_s": 60}]
VIEWS = ("speech", "voices", "calls", "phone", "health")
NASTY = "<img src=x onerror=alert(1)>"
TOKENS = [
    {"name": "watch", "token": "watch-0123456789abcdef", "roles": ["read"]},
    {"name": "boss", "token": "boss-0123456789abcdef", "roles": ["admin"]},
]


@asynccontextmanager
async def console(running: server.Server, *flags: str, view: str = "speech", link: str = "Live") -> AsyncIterator[Page]:
    """A browser that shows the console. What it complains of, in the end, fails the test."""
    async with chromium(*flags) as page:
        await page.emulate()
        await page.goto(f"http://{running.http_address}/console#{view}")
        await page.until(f"document.getElementById('link-text').textContent == {json.dumps(link)}")
        yield page
        assert complaints(page) == []


def complaints(page: Page) -> list[str]:
    """Errors and warnings, violations of the policy among them; that the API said no is none."""
    told = [message for message in page.messages if message.startswith(("error", "warning"))]
    return [message for message in told if "Failed to load resource" not in message]


async def text(page: Page, id: str) -> str:
    return str(await page.evaluate(f"document.getElementById({json.dumps(id)}).textContent"))


async def fill(page: Page, id: str, value: str) -> None:
    """Type into a field, in the stead of what is there."""
    await page.evaluate(f"document.getElementById({json.dumps(id)}).select()")
    await page.click(f"#{id}")
    await page.evaluate(f"document.getElementById({json.dumps(id)}).select()")
    await page.write(value)


async def focused(page: Page) -> str:
    return str(await page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))


async def tab_to(page: Page, script: str, *, most: int = 60) -> None:
    """Press Tab until the element with the focus, `e`, is the one that is meant."""
    for _ in range(most):
        await page.press("Tab")
        if await page.evaluate(f"(e => {script})(document.activeElement)"):
            return
    raise AssertionError(f"no Tab leads to {script}")


async def keep_what_is_made(page: Page) -> None:
    """Have the page keep the files that it makes, for `samples_of`; its policy lets no script fetch them."""
    await page.evaluate(
        "(() => { const make = URL.createObjectURL; URL.createObjectURL = b => { window.made = b; return make(b) } })()"
    )


async def samples_of(page: Page) -> bytes:
    """The samples in the WAV file that was made last."""
    script = """new Promise(done => { const reader = new FileReader(); reader.onload = () => done(reader.result);
        reader.readAsDataURL(window.made); })"""
    return base64.b64decode((await page.evaluate(script)).partition(",")[2])[44:]


# Speech --------------------------------------------------------------------------------------------------------------


async def test_a_typed_text_is_heard_with_the_chosen_voice() -> None:
    async with serving() as running, console(running) as page:
        await page.until("document.querySelectorAll('#speak-voice option').length > 100")
        await keep_what_is_made(page)
        await fill(page, "speak-text", "Good evening, everybody.")
        await page.evaluate("document.getElementById('speak-voice').value = 'en-gb-x-rp'")
        await page.evaluate("document.getElementById('speak-text').focus()")
        # Ctrl+Enter, where the text was typed.
        for kind in ("keyDown", "keyUp"):
            await page.command(
                "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, modifiers=2
            )
        await page.until("document.getElementById('heard-audio').duration > 0.5")
        assert re.fullmatch(r"\d+ ms", await text(page, "heard-first"))
        assert 0 < float(await text(page, "heard-rtf")) < 1
        assert await text(page, "heard-source") == running.engine.name + " " + running.engine.version
        await page.until("document.getElementById('speak-stop').disabled")
        painted = "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter(Boolean).length"
        assert await page.evaluate(f"({painted})(document.getElementById('heard-wave'))") > 1000
        # And again, by the player.
        await page.evaluate("document.getElementById('heard-audio').play()")
        await page.until("document.getElementById('heard-audio').currentTime > 0.2")
        wanted = engines.Utterance(text="Good evening, everybody.", voice="en-gb-x-rp", rate_hz=24000)
        said = b"".join([chunk.samples async for chunk in running.engine.synthesize(wanted)])
        assert await samples_of(page) == said
        await page.click("#speak button.primary")
        await page.until("document.getElementById('heard-source').textContent == 'cache'")


async def test_what_is_wrong_with_a_text_stands_beside_it_in_the_words_of_the_api() -> None:
    async with serving() as running, console(running) as page:
        await fill(page, "speak-text", "   ")
        await page.click("#speak button.primary")
        await page.until("document.getElementById('speak-text-error').textContent")
        assert await text(page, "speak-text-error") == "Type something to say."
        await page.evaluate("document.querySelector('#speak [value=ssml]').click()")
        await fill(page, "speak-text", "<speak>Not <closed</speak>")
        await page.click("#speak button.primary")
        await page.until("document.getElementById('speak-text-error').textContent.includes('SSML')")
        assert await page.evaluate("document.getElementById('speak-text').getAttribute('aria-invalid')") == "true"
        assert await focused(page) == "speak-text"
        await fill(page, "speak-text", "<speak>Now it is <emphasis>well</emphasis> formed.</speak>")
        await page.click("#speak button.primary")
        await page.until("document.getElementById('heard-audio').duration > 0.5")
        assert await text(page, "speak-text-error") == ""


# Voices --------------------------------------------------------------------------------------------------------------


async def test_a_speaker_is_enrolled_from_a_file_renamed_heard_and_deleted(tmp_path: Path) -> None:
    good, short = tmp_path / "ada.wav", tmp_path / "short.wav"
    good.write_bytes(wav_of(somebody()))
    short.write_bytes(wav_of(somebody()[:RATE_HZ]))
    async with serving(store={"path": tmp_path / "store"}) as running, console(running, view="voices") as page:
        await page.until("!document.getElementById('speakers-empty').hidden")
        await page.click("#enrol button.primary")
        await page.until("document.getElementById('enrol-name-error').textContent")
        await fill(page, "enrol-name", NASTY)
        await fill(page, "enrol-consent", "In writing, 2026-11-25")
        await page.choose("#enrol-file", short)
        await page.click("#enrol button.primary")
        await page.until("document.getElementById('enrol-file-error').textContent.includes('3 s')")
        await page.choose("#enrol-file", good)
        await page.click("#enrol button.primary")
        await page.until("!!document.querySelector('#speakers .name')")
        name, about, consent = await page.evaluate(
            "[...document.querySelectorAll('#speakers p')].map(p => p.textContent)"
        )
        assert (name, consent) == (NASTY, "Consent: In writing, 2026-11-25")
        assert "voice profile" in about
        assert await page.evaluate("document.querySelector('#speak-voice optgroup').label") == "Enrolled speakers"
        await page.click("#speakers button[aria-label^=Rename]")
        assert await focused(page) == "ask-value"
        await page.write("Ada")
        await page.press("Enter")
        await page.until("document.querySelector('#speakers .name').textContent == 'Ada'")
        await page.click("#speakers button[aria-label='Hear Ada']")
        await page.until("performance.getEntriesByName(new URL('v1/synthesize/stream', location).href).length")
        assert await text(page, "speakers-problem") == ""
        await page.click("#speakers button[aria-label='Delete Ada']")
        assert await focused(page) == "ask-cancel"
        await page.press("Escape")
        assert await page.evaluate("document.querySelectorAll('#speakers li').length") == 1
        await page.click("#speakers button[aria-label='Delete Ada']")
        await page.click("#ask-go")
        await page.until("!document.getElementById('speakers-empty').hidden")


async def test_a_speaker_is_enrolled_by_microphone(tmp_path: Path) -> None:
    spoken_there = tmp_path / "microphone.wav"
    spoken_there.write_bytes(wav_of(somebody()))
    async with (
        serving(store={"path": tmp_path / "store"}) as running,
        console(running, f"--use-file-for-fake-audio-capture={spoken_there}", view="voices") as page,
    ):
        await fill(page, "enrol-name", "Grace")
        await page.evaluate("document.querySelector('#enrol [value=microphone]').click()")
        await page.click("#record")
        await page.until("document.getElementById('record-level').ariaValueNow > 30")
        await page.until("document.getElementById('record-time').textContent == '0:05'")
        await page.click("#record")
        await page.until("!!document.getElementById('record-audio').file")
        await page.click("#enrol button.primary")
        await page.until("document.querySelector('#speakers .name')?.textContent == 'Grace'")
        async with api(running) as client:
            _, (speaker,) = await client.ask("GET", "/v1/speakers")
        assert speaker["speech_s"] > 3
        assert await page.evaluate("document.getElementById('record-audio').hidden")


async def test_every_voice_of_the_engine_can_be_found_and_heard() -> None:
    async with serving() as running, console(running, view="voices") as page:
        await page.until(f"document.querySelectorAll('#voices li').length == {len(running.engine.voices())}")
        await fill(page, "voices-filter", "german")
        await page.until("document.querySelectorAll('#voices li').length == 1")
        await page.click("#voices button")
        await page.until("performance.getEntriesByName(new URL('v1/synthesize/stream', location).href).length")
        await fill(page, "voices-filter", "klingon of old")
        await page.until("!document.getElementById('voices-empty').hidden")
        assert await text(page, "voices-problem") == ""


# Calls ---------------------------------------------------------------------------------------------------------------


async def test_a_call_appears_with_its_words_and_is_spoken_into_and_hung_up_by_keyboard_alone() -> None:
    async with serving(route=STAYS) as running, console(running, view="calls") as page:
        await page.until("!document.getElementById('calls-empty').hidden")
        call = asyncio.create_task(heard(running, "hello"))
        await page.until("document.querySelector('#calls-rows .says')?.textContent.startsWith('Welcome')")
        row = await page.evaluate("document.querySelector('#calls-rows tr').innerText")
        assert re.search(r"^Up\s+from\s+softphone\s+@127\.0\.0\.1\s+hello@", row)
        await page.evaluate("document.body.focus()")
        await tab_to(page, "e.matches('#calls-rows a')")
        await page.press("Enter")
        await page.until("document.activeElement.id == 'call-title'")
        await page.until("document.getElementById('call-codec').textContent == 'PCMU'")
        await page.until("document.querySelector('#spoken .about')?.textContent.startsWith('is being said')")
        await tab_to(page, "e.id == 'say-text'")
        await page.write("One thing more.")
        await tab_to(page, "e.value == 'queue'")
        await page.press("Enter")
        await page.until("document.querySelectorAll('#spoken li').length == 2")
        assert await page.evaluate("document.querySelector('#spoken li:last-child .words').textContent") == (
            "One thing more."
        )
        assert await focused(page) == "say-text"
        await tab_to(page, "e.dataset.act == 'pause'")
        await page.press("Space")
        await page.until("document.querySelector('[data-act=pause]').textContent == 'Resume'")
        assert "speech is paused" in await text(page, "call-flags")
        await tab_to(page, "e.dataset.act == 'hang-up'")
        await page.press("Enter")
        outcome = await call
        assert outcome.ended_by == "the peer hung up"
        await page.until("document.getElementById('call-state').textContent == 'Ended'")
        assert "hung up, by the server" in await text(page, "call-end")
        assert await page.evaluate("document.getElementById('call-acts').hidden")
        assert await page.evaluate("document.getElementById('calls-count').hidden")


async def test_the_plots_of_a_call_and_of_the_server_have_data() -> None:
    lines = "[...document.querySelectorAll('%s .line-0')].map(l => (l.getAttribute('d') ?? '').split('L').length)"
    async with serving(route=STAYS) as running, console(running, view="calls") as page:
        call = asyncio.create_task(heard(running, "hello", seconds=30.0))
        await page.until("!!document.querySelector('#calls-rows a')")
        await page.click("#calls-rows a")
        # Packets and jitter from the second reading on; MOS from the phone's first report.
        await page.until(lines % "#call-plots" + ".filter(points => points > 3).length >= 3")
        label = await page.evaluate("document.querySelector('#call-plots svg').getAttribute('aria-label')")
        assert (rate := re.match(r"Packets a second\. sent: now ([\d.]+),", label))
        assert 40 < float(rate[1]) < 60
        await page.until("document.querySelectorAll('#call-plots .readings b')[6].textContent.startsWith('4.')")
        await page.evaluate("location.hash = 'health'")
        await page.until(lines % "#health-plots" + ".filter(points => points > 2).length >= 5")
        tiles = await page.evaluate("document.getElementById('tiles').innerText")
        assert re.search(r"Server\s+healthy", tiles)
        assert re.search(r"Calls\s+1", tiles)
        await page.until("document.querySelector('#health-plots .readings b').textContent == '1'")
        async with api(running) as client:
            _, told = await client.ask("GET", "/v1/calls")
            await client.ask("DELETE", f"/v1/calls/{told['calls'][0]['id']}")
        await call


async def test_a_call_is_placed_held_recorded_dialled_into_and_transferred(tmp_path: Path) -> None:
    notifies = ("SIP/2.0 100 Trying", "SIP/2.0 200 OK")
    store, kept = {"path": tmp_path / "store"}, {"enabled": True, "path": tmp_path / "kept"}
    async with (
        serving(store=store, recordings=kept) as running,
        friend(notifies=notifies) as callee,
        console(running, view="calls") as page,
    ):
        await page.click("#place-details summary")
        await page.click("#place button.primary")
        await page.until("document.getElementById('place-to-error').textContent")
        await fill(page, "place-to", "sip:alice@192.0.2.1")
        await page.click("#place button.primary")
        await page.until("document.getElementById('place-to-error').textContent.includes('calls.networks')")
        await fill(page, "place-to", callee.uri)
        await page.click("#place button.primary")
        await page.until("document.getElementById('call-state').textContent == 'Up'")
        await page.click("[data-act=hold]")
        await page.until("document.querySelector('[data-act=hold]').textContent == 'Take off hold'")
        await page.click("[data-act=hold]")
        await page.until("document.querySelector('[data-act=hold]').textContent == 'Hold'")
        await page.click("[data-act=record]")
        await page.until("document.querySelector('[data-act=record]').textContent == 'Stop recording'")
        await page.click("[data-act=record]")
        await page.until("document.querySelector('#recordings .about')?.textContent.endsWith('stopped')")
        await keep_what_is_made(page)
        await page.click("#recordings button")
        await page.until("window.made?.type == 'audio/wav'")
        await page.click("#call details summary")
        await fill(page, "digits-are", "12x")
        await page.click("#digits button")
        await page.until("document.getElementById('digits-are-error').textContent.includes('match')")
        await fill(page, "digits-are", "42#")
        await page.press("Enter")
        async with asyncio.timeout(5):
            while callee.digits != ["4", "2", "#"]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        (tmp_path / "tune.wav").write_bytes(wav_of(somebody()[:RATE_HZ]))
        await page.choose("#play-file", tmp_path / "tune.wav")
        await page.click("#play button")
        await page.until("document.querySelector('#spoken .words')?.textContent == 'A recording'")
        await fill(page, "play-url", "https://example.com/tune.wav")
        await page.click("#play button")
        await page.until("document.getElementById('play-url-error').textContent.includes('allow_hosts')")
        await fill(page, "transfer-to", "nonsense")
        await page.click("#transfer button")
        await page.until("document.getElementById('transfer-to-error').textContent")
        await fill(page, "transfer-to", "sip:bob@example.com")
        await page.press("Enter")
        await page.until("document.getElementById('call-end').textContent.includes('transferred')")
        assert callee.referred[0].headers.get("Refer-To") == "<sip:bob@example.com>"
        assert await text(page, "announcements") == "The call was transferred (200 OK)."


async def test_what_callers_call_themselves_stays_text() -> None:
    async with serving(route=STAYS) as running, console(running, view="calls") as page:
        dialogs = await page.evaluate("window.alert = () => { window.alerted = true }; 0")
        assert dialogs == 0
        events: asyncio.Queue[sip.Event] = asyncio.Queue()
        agent = sip.Agent(random=random.Random())
        async with (
            sip.Transport.open(agent, [("127.0.0.1", 0)], deliver=events.put_nowait) as transport,
            phone() as callee,
            api(running) as client,
        ):
            transport.invite(
                sip.Uri.parse(f"sip:hello@{running.sip_address}"),
                transport.flow_to("127.0.0.1", running.sip_address.port),
                from_=sip.NameAddr.parse(f'"{NASTY}" <sip:%3Cscript%3Ealert(1)%3C%2Fscript%3E@evil.example>'),
                body=OFFER,
                content_type="application/sdp",
            )
            await client.place(callee.uri, text=NASTY, then="stay", **{"from": f'"{NASTY}" <sip:x@evil.example>'})
            await page.until("document.querySelectorAll('#calls-rows tr').length == 2")
            words = "[...document.querySelectorAll('#calls-rows .says')].map(e => e.textContent)"
            await page.until(f"{words}.includes({json.dumps(NASTY)})")
            names = await page.evaluate("[...document.querySelectorAll('#calls-rows .with')].map(e => e.textContent)")
            assert any("script" in name and "evil.example" in name for name in names), names
            for number in range(2):
                await page.evaluate(f"document.querySelectorAll('#calls-rows a')[{number}].click()")
                await page.until("!!document.querySelector('#spoken .words')")
            assert await page.evaluate("document.querySelectorAll('main img, main script').length") == 0
            assert not await page.evaluate("window.alerted")
            # And whatever would try is stopped by the policy.
            with pytest.raises(ChromiumError, match="TrustedHTML"):
                await page.evaluate(f"document.body.innerHTML = {json.dumps(NASTY)}")
            page.messages.clear()


async def test_the_page_finds_back_to_a_server_that_was_away() -> None:
    async with AsyncExitStack() as stack:
        async with serving(route=STAYS) as first:
            address = first.http_address
            page = await stack.enter_async_context(console(first, view="calls"))
            await heard(first, "hello", seconds=0.5)
            await page.until("document.querySelectorAll('#calls-rows tr').length == 1")
        await page.until("document.getElementById('link-text').textContent == 'Reconnecting'")
        await page.until("document.getElementById('link-notice').textContent.includes('goes on by itself')")
        # Another comes in its place, which knows nothing of the first one's events: a gap, and the list is asked for.
        async with serving(route=STAYS, http={"listen": str(address)}) as second:
            await page.until("document.getElementById('link-text').textContent == 'Live'", timeout_s=40)
            await page.until("document.querySelectorAll('#calls-rows tr').length == 0")
            assert await page.evaluate("document.getElementById('link-notice').hidden")
            call = asyncio.create_task(heard(second, "hello", seconds=2.0))
            await page.until("document.querySelector('#calls-rows .says')?.textContent.startsWith('Welcome')")
            await call


# The phone -----------------------------------------------------------------------------------------------------------


async def test_the_phone_calls_hears_dials_is_muted_and_hangs_up(tmp_path: Path) -> None:
    microphone = tmp_path / "microphone.wav"
    microphone.write_bytes(wav_of(somebody()))
    flag = f"--use-file-for-fake-audio-capture={microphone}"
    async with serving(route=STAYS) as running, console(running, flag, view="phone") as page, api(running) as client:
        await fill(page, "dial-to", "not a name")
        await page.press("Enter")
        await page.until("document.getElementById('dial-to-error').textContent.includes('match')")
        assert await page.evaluate("document.getElementById('talk').hidden")
        await fill(page, "dial-to", "hello")
        await page.press("Enter")
        await page.until("document.activeElement.id == 'phone-hang-up'")
        # It is a call like any other, and what is said in it is heard: 0.5 is -30 dB.
        await page.until("document.getElementById('hear-level').ariaValueNow > 50")
        await page.until("document.getElementById('phone-audio').currentTime > 0.5")
        _, told = await client.ask("GET", "/v1/calls")
        (call,) = told["calls"]
        await client.until(call["id"], lambda told: told["speech"][0]["spoken_ms"] > 1000)
        assert (call["direction"], (await client.call(call["id"]))["speech"][0]["text"]) == ("inbound", WORDS)
        await page.until("document.getElementById('talk-level').ariaValueNow > 30")
        await page.click("[data-digit='4']")
        await page.press("2")
        await client.until(call["id"], lambda told: told["digits"] == 2)
        assert await text(page, "keypad-dialled") == "42"
        await page.evaluate("document.getElementById('mute').focus()")
        await page.press("Space")
        assert await page.evaluate("document.getElementById('mute').getAttribute('aria-pressed')") == "true"
        await page.until("document.getElementById('talk-level').ariaValueNow == 0")
        await page.evaluate("document.getElementById('phone-hang-up').focus()")
        await page.press("Enter")
        await page.until("document.activeElement.id == 'dial-go'")
        assert (await client.ended(call["id"]))["end"]["reason"] == "hung_up"
        assert await page.evaluate("document.getElementById('phone-audio').srcObject") is None
        assert await text(page, "announcements") == "You have hung up."


async def test_the_phone_learns_that_the_server_has_hung_up() -> None:
    hangs_up = [{"user": "bye", "say": "Bye.", "then": "hangup"}]
    async with serving(route=hangs_up) as running, console(running, view="phone") as page:
        await fill(page, "dial-to", "bye")
        await page.press("Enter")
        await page.until("!document.getElementById('talk').hidden")
        await page.until("document.getElementById('talk').hidden")
        assert await text(page, "announcements") == "The other side has hung up."
        assert await page.evaluate("document.getElementById('dial-go').hidden") is False


async def test_who_has_no_microphone_can_hear_and_is_told_so() -> None:
    async with serving(route=STAYS) as running, console(running, view="phone") as page:
        refuse = "Promise.reject(new DOMException('no', 'NotFoundError'))"
        await page.evaluate(f"navigator.mediaDevices.getUserMedia = () => {refuse}; 0")
        await fill(page, "dial-to", "hello")
        await page.press("Enter")
        await page.until("document.getElementById('hear-level').ariaValueNow > 50")
        problem = await page.evaluate("document.querySelector('#dial [data-problem]').textContent")
        assert problem == "You can hear, but not be heard. There is no microphone. Connect one and try again."
        assert await page.evaluate("document.getElementById('mute').disabled")


# Access --------------------------------------------------------------------------------------------------------------


async def test_a_token_is_asked_for_and_what_it_may_not_do_is_said() -> None:
    async with serving(token=TOKENS) as running, console(running, link="Connecting") as page:
        await page.until("document.getElementById('token-dialog')?.open")
        assert await focused(page) == "token"
        await page.press("Escape")
        await page.until("document.getElementById('link-text').textContent == 'Signed out'")
        notice = "document.querySelector('#view-speech [data-lacks]').textContent"
        assert await page.evaluate(notice) == "Sign in to make speech: this takes a token with the role speak."
        await page.click("#sign-in")
        await page.until("document.getElementById('token-dialog')?.open")
        await page.write("guessed-0123456789")
        await page.press("Enter")
        await page.until("document.getElementById('token-error').textContent.includes('not in force')")
        await fill(page, "token", "watch-0123456789abcdef")
        await page.press("Enter")
        await page.until("document.getElementById('link-text').textContent == 'Live'")
        assert await page.evaluate(notice) == "The token “watch” may not make speech: this takes the role speak."
        for selector in ("#speak button.primary", "#enrol button.primary", "#place button.primary", "#dial-go"):
            assert await page.evaluate(f"document.querySelector('{selector}').disabled"), selector
        kept = "JSON.stringify([Object.values(sessionStorage), Object.values(localStorage), document.cookie])"
        assert json.loads(await page.evaluate(kept)) == [["watch-0123456789abcdef"], [], ""]
        assert "watch-" not in await page.evaluate("location.href")
        asked = await page.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
        assert not any("watch-" in url for url in asked)
        await page.click("#sign-out")
        await page.until("document.getElementById('token-dialog')?.open")
        assert await page.evaluate("sessionStorage.length") == 0
        await page.write("boss-0123456789abcdef")
        await page.press("Enter")
        await page.until("document.getElementById('link-text').textContent == 'Live'")
        assert not await page.evaluate("document.querySelector('#speak button.primary').disabled")
        assert await page.evaluate("[...document.querySelectorAll('[data-lacks]')].every(notice => notice.hidden)")


async def test_a_token_that_goes_out_of_force_is_asked_for_anew(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    for name in ("first", "second"):
        (tmp_path / f"{name}.toml").write_text(
            f'[[token]]\nname = "{name}"\ntoken = "{name}-0123456789abcdef"\nroles = ["admin"]\n'
        )
    file.write_text((tmp_path / "first.toml").read_text())
    async with serving(http={"token_file": file}) as running, console(running, link="Connecting") as page:
        await page.until("document.getElementById('token-dialog')?.open")
        await page.write("first-0123456789abcdef")
        await page.press("Enter")
        await page.until("document.getElementById('link-text').textContent == 'Live'")
        file.write_text((tmp_path / "second.toml").read_text())
        running.reload()
        await page.until("document.getElementById('token-dialog')?.open")
        assert await text(page, "token-why") == "This token is not in force."
        await page.write("second-0123456789abcdef")
        await page.press("Enter")
        await page.until("document.getElementById('link-text').textContent == 'Live'")


async def test_a_token_that_may_ask_for_little_sees_its_calls_all_the_same() -> None:
    slow = [{"name": "slow", "token": "slow-0123456789abcdef", "roles": ["call"], "requests_per_s": 2}]
    async with serving(token=slow, route=STAYS) as running, console(running, view="calls", link="Connecting") as page:
        await page.until("document.getElementById('token-dialog').open")
        await page.write("slow-0123456789abcdef")
        await page.press("Enter")
        call = asyncio.create_task(heard(running, "hello", seconds=12.0))
        await page.until("document.querySelector('#calls-rows .says')?.textContent.startsWith('Welcome')")
        await page.click("#calls-rows a")
        await page.until("document.getElementById('call-codec').textContent == 'PCMU'")
        await call
        await page.until("document.getElementById('call-state').textContent == 'Ended'")
        await page.until("document.getElementById('calls-problem').textContent == ''")


# How it looks --------------------------------------------------------------------------------------------------------


async def test_axe_finds_nothing_wrong_in_any_view_light_dark_or_narrow(tmp_path: Path) -> None:
    async with serving(route=STAYS, store={"path": tmp_path}) as running, console(running) as page:
        async with aiohttp.ClientSession() as session:
            form = aiohttp.FormData()
            form.add_field("name", "Ada")
            form.add_field("file", wav_of(somebody()), filename="ada.wav")
            async with session.post(f"http://{running.http_address}/v1/speakers", data=form) as response:
                assert response.status == 201
        call = asyncio.create_task(heard(running, "hello", seconds=60.0))
        await page.command("Page.setBypassCSP", enabled=True)  # axe writes markup of its own
        await page.goto("about:blank")
        await page.goto(f"http://{running.http_address}/console#calls")
        await page.until("!!document.querySelector('#calls-rows a')")
        for width, dark in ((1280, True), (360, False)):
            await page.emulate(width=width, dark=dark)
            for view in VIEWS:
                await page.evaluate(f"location.hash = {json.dumps(view)}")
                await page.until(f"!document.getElementById('view-{view}').hidden")
                if view == "calls":
                    await page.evaluate("document.querySelector('#calls-rows a').click()")
                    await page.until("!!document.querySelector('#spoken li') && !!document.querySelector('.plot path')")
                assert await violations(page) == [], (view, width, dark)
                over = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                assert await page.evaluate(over) == 0, (view, width)
        async with api(running) as client:
            _, told = await client.ask("GET", "/v1/calls")
            await client.ask("DELETE", f"/v1/calls/{told['calls'][0]['id']}")
        await call


async def test_axe_finds_nothing_wrong_with_the_dialogs_and_the_description_of_the_api() -> None:
    async with serving(token=TOKENS) as running, console(running, link="Connecting") as page:
        await page.command("Page.setBypassCSP", enabled=True)
        await page.goto(f"http://{running.http_address}/console")
        await page.until("document.getElementById('token-dialog')?.open")
        assert await violations(page) == []
        await page.goto(f"http://{running.http_address}/docs")
        await page.until("document.querySelectorAll('.operation').length > 20")
        for width, dark in ((1280, False), (360, True)):
            await page.emulate(width=width, dark=dark)
            assert not dark or await violations(page) == []
            over = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert await page.evaluate(over) == 0


async def test_the_description_of_the_api_is_there_to_read() -> None:
    async with serving(token=TOKENS) as running, chromium() as page:
        async with api(running) as client:
            _, document = await client.ask("GET", "/openapi.json")
        await page.goto(f"http://{running.http_address}/docs")
        await page.until("document.querySelectorAll('.operation').length")
        ids = await page.evaluate("[...document.querySelectorAll('.operation')].map(e => e.id)")
        assert sorted(ids) == sorted(one["operationId"] for path in document["paths"].values() for one in path.values())
        shown = await page.evaluate("document.getElementById('post_say').innerText")
        for words in (
            "/v1/calls/{id}/say",
            '"queue" | "interrupt"',
            "Takes a token with the role call.",
            "curl -X POST",
        ):
            assert words in shown
        await page.evaluate("document.querySelectorAll('#post_say details').forEach(e => e.open = true)")
        assert '"state": "queued"' in await page.evaluate("document.getElementById('post_say').innerText")
        assert complaints(page) == []


async def test_colours_follow_the_system_until_some_are_chosen() -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    async with serving() as running, console(running) as page:
        light = await page.evaluate(ground)
        await page.emulate(dark=True)
        dark = await page.evaluate(ground)
        assert (light, dark) == ("rgb(244, 246, 249)", "rgb(15, 20, 27)")
        script = "const s = document.getElementById('theme'); s.value = 'light'; s.dispatchEvent(new Event('change'))"
        await page.evaluate(f"(() => {{ {script} }})()")
        assert await page.evaluate(ground) == light
        await page.goto(f"http://{running.http_address}/console")
        assert await page.evaluate(ground) == light


async def test_who_has_no_mouse_sees_where_they_are_and_can_pass_over_the_bar() -> None:
    async with serving() as running, console(running) as page:
        await page.press("Tab")
        assert await focused(page) == "To the content"
        assert await page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
        await page.press("Enter")
        await tab_to(page, "e.id == 'speak-text'", most=4)
        assert await page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") == 2
        await page.evaluate("location.hash = 'health'")
        await page.until("document.activeElement.id == 'health-title'")
        assert await page.evaluate("document.title") == "Health · Media server"


# The modules ---------------------------------------------------------------------------------------------------------


@pytest.fixture
async def modules() -> AsyncIterator[Page]:
    """A page from which the console's modules can be imported."""
    async with serving() as running, console(running) as page:
        yield page


async def test_events_are_read_wherever_the_network_cuts_them(modules: Page) -> None:
    stream = (
        ": hello\n\nretry: 2000\n\nid: 7\nevent: call.answered\ndata: {\ndata: }\n\nid: 8\r\ndata: ü\r\n\r\ndata: cut"
    )
    told = await modules.evaluate(f"""import('./console/sse.js').then(async ({{ eventsOf }}) => {{
        const octets = new TextEncoder().encode({json.dumps(stream)});
        const body = new ReadableStream({{ start(to) {{
            for (const octet of octets) to.enqueue(new Uint8Array([octet]));
            to.close();
        }} }});
        const told = [];
        for await (const event of eventsOf(body)) told.push(event);
        return told;
    }})""")
    assert told == [
        {"type": "comment"},
        {"type": "retry", "retry": 2000},
        {"type": "call.answered", "data": "{\n}", "id": "7"},
        {"type": "message", "data": "ü", "id": "8"},
    ]


async def test_an_event_stream_is_taken_up_again_after_the_last_event(modules: Page) -> None:
    told = await modules.evaluate("""import('./console/sse.js').then(async ({ follow }) => {
        const asked = [], told = [], ending = new AbortController(), fetched = window.fetch;
        window.fetch = async (url, { headers }) => {
            asked.push(headers['Last-Event-ID'] ?? null);
            if (asked.length == 2) throw new TypeError('no network');
            if (asked.length == 4) ending.abort();
            return new Response(`retry: 10\n\nid: e-${asked.length}\nevent: x\ndata: 1\n\n`);
        };
        const [event, state] = [(type) => told.push(type), (name) => told.push(name)];
        await follow('v1/events', { signal: ending.signal, event, state });
        window.fetch = fetched;
        return [asked, told];
    })""")
    assert told == [
        [None, "e-1", "e-1", "e-3"],
        ["live", "x", "waiting", "waiting", "live", "x", "waiting", "live", "x"],
    ]


async def test_metrics_are_read_and_what_happened_in_between_is_worked_out(modules: Page) -> None:
    def exposition(*counts: int) -> str:
        bounds = ("1.0", "2.0", "+Inf")
        lines = [f'h_bucket{{le="{bound}"}} {count}' for bound, count in zip(bounds, counts, strict=True)]
        return "\n".join(
            ["# HELP h It.", *lines, f'c_total{{a="x y",b="\\""}} {counts[-1]}', 'c_total{a="z"} 1', "g 2.5e-3"]
        )

    told = await modules.evaluate(f"""import('./console/metrics.js').then(m => {{
        const [before, now] = [{json.dumps(exposition(1, 1, 1))}, {json.dumps(exposition(1, 11, 11))}].map(m.parse);
        return [m.sum(now, 'c_total'), m.sum(now, 'c_total', {{a: 'x y'}}), m.sum(now, 'g'), m.sum(now, 'missing'),
            m.growth(before, now, 'c_total'), m.growth(now, before, 'c_total'),
            m.quantile(before, now, 'h', 0.5), m.quantile(now, now, 'h', 0.5), m.quantile(before, now, 'none', 0.5)];
    }})""")
    assert told == [12, 11, 0.0025, None, 10, None, 1.5, None, None]
