"""What may be done to the SIP stack with any bytes at all, and what must hold then: the targets of fuzzing.

`TARGETS` are functions of bytes. They raise AssertionError, or whatever escapes from the stack, when it does something
that it must not. tests/test_sip_fuzz.py gives them what hypothesis thinks of, `scripts/fuzz` what grows out of `seeds`
under the guidance of the code that is reached.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from mediaserver.admission import Gate
from mediaserver.config import Config
from sip import (
    Agent,
    Ended,
    Flow,
    LocalProtocolError,
    NameAddr,
    Offered,
    Referral,
    RemoteProtocolError,
    Reoffered,
    Request,
    Requested,
    Response,
    Transfer,
    Uri,
    parse_datagram,
)
from sip.body import parts_of
from sip.digest import Challenge, Credentials, Keyring, Login, Realm, topmost
from sip.guard import Guard
from sip.headers import Headers
from sip.parser import KeepAlive, MalformedMessage, StreamParser
from sip.sdp import Capabilities, SessionDescription, answer, offer, settle

US, PEER, STRANGER = ("192.0.2.1", 5060), ("192.0.2.2", 5060), ("198.51.100.9", 4711)
FLOW = Flow("UDP", US, PEER)
HERE = Capabilities(host="192.0.2.10", port=20000, session_id=77)
GATE = Gate(Config.model_validate({"sip": {"networks": [f"{PEER[0]}/32"]}}), lambda host: None)
REALM = Realm("example.com", secret=bytes(32))


def held(thing: object, path: str = "") -> dict[str, int]:
    """How much is in each container that an object of the stack has, and in those of the objects that it has."""
    sizes: dict[str, int] = {}
    names = {name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())}
    for name in names | set(getattr(thing, "__dict__", ())):
        value = getattr(thing, name)
        if isinstance(value, dict | list | set | deque) and not isinstance(value, Counter):
            sizes[f"{path}.{name}"] = len(value)
        elif type(value).__module__.startswith("sip."):
            sizes |= held(value, f"{path}.{name}")
    return sizes


def _allow(error: RemoteProtocolError, *statuses: int) -> None:
    assert error.status in statuses, error


def parser(data: bytes) -> None:
    """A datagram is a message that reads back the same, or is refused in a way that can be answered."""
    try:
        message = parse_datagram(data)
    except MalformedMessage as error:
        _allow(error, 400, 416, 505, 513)
        if error.request is not None:
            error.request.received_from(*PEER).response(error.status, error.reason, to_tag="t").serialise()
        return
    assert parse_datagram(message.serialise()) == message
    if isinstance(message, Request):
        message.received_from(*PEER).response(200, to_tag="t").serialise()
    with contextlib.suppress(RemoteProtocolError):
        for part in parts_of(message, ("application/sdp", "text/plain")):
            _ = (part.text, part.disposition, part.optional)


def stream(data: bytes) -> None:
    """A stream holds the same messages in whatever pieces it comes."""
    size = 1 + (data[0] if data else 0)
    assert _cut(data[1:], size) == _cut(data[1:], 1 << 16)


def _cut(data: bytes, size: int) -> list[Request | Response | KeepAlive | tuple[int, str, bool]]:
    cutter = StreamParser()
    found: list[Request | Response | KeepAlive | tuple[int, str, bool]] = []
    for start in range(0, len(data), size):
        cutter.feed(data[start : start + size])
        while True:
            try:
                item = cutter.next_message()
            except MalformedMessage as error:
                found.append((error.status, error.reason, error.request is not None))
                continue
            if item is None:
                break
            found.append(item)
    return found


def sdp(data: bytes) -> None:
    """A description is answered stream by stream, or refused with 400 or 488."""
    try:
        description = SessionDescription.parse(data)
        answered, _ = answer(description, HERE)
    except RemoteProtocolError as error:
        _allow(error, 400, 488)
    else:
        assert [media.kind for media in answered.media] == [media.kind for media in description.media]
        assert SessionDescription.parse(answered.serialise()) == answered
        assert SessionDescription.parse(description.serialise()).media == description.media
        with contextlib.suppress(RemoteProtocolError):
            settle(offer(HERE, answered), description, HERE)


def digest(data: bytes) -> None:
    """A challenge is met or passed over, and credentials prove nothing that they do not know."""
    text = data.decode("latin-1").translate({10: None, 13: None})
    for read in (Challenge.parse, Credentials.parse):
        with contextlib.suppress(RemoteProtocolError):
            read(text)
    for challenge in topmost([text]):
        proof = challenge.credentials(username="u", password="p", method="M", uri="sip:u", cnonce="c")
        assert Credentials.parse(str(proof)) == proof
    headers = Headers([("Authorization", text), ("Proxy-Authorization", text)])
    request = Request(method="INVITE", uri=Uri(host="a"), headers=headers)
    try:
        REALM.check(request, {"alice": "wonderland"}.get, 1.0)
    except RemoteProtocolError as error:
        _allow(error, 401)
    else:
        raise AssertionError("let in without having been challenged")
    response = Response(status=401, reason="x", headers=Headers([("WWW-Authenticate", text)]))
    keyring = Keyring(Login(username="u", password="p"))
    if keyring.learn(response, Counter()):
        assert keyring.fields("M", Uri(host="a"), b"", cnonce="c")


class Script:
    """Bytes as decisions; at their end every decision is the first one."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def one_of(self, *choices: Any) -> Any:
        return choices[self.number() % len(choices)]

    def some(self) -> bytes:
        """Some bytes that mean nothing."""
        length = 2 * self.number()
        self._at += length
        return self._data[self._at - length : self._at]


class Siege:
    """An agent, its host, a peer that knows how to behave but need not, and whoever else sends datagrams."""

    METHODS = ("INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "INFO", "MESSAGE", "REFER", "NOTIFY", "UPDATE", "PRACK")

    def __init__(self, script: Script) -> None:
        self.script = script
        self.agent = self.fresh(guarded=script.number() % 4 == 1)
        self.flow: Flow = script.one_of(FLOW, Flow("TCP", US, PEER, connection=1))
        self.now = 0.0
        self.calls: list[str] = []
        self.retained: list[str] = []
        self.requested: list[str] = []
        self.transfers: list[Transfer] = []
        self.referrals: list[Referral] = []
        self.heard: list[Request | Response] = []
        self.ended: Counter[str] = Counter()

    @staticmethod
    def fresh(*, guarded: bool) -> Agent:
        guard = Guard(realm=Realm("example.com", secret=bytes(32)), password_of={"alice": "wonderland"}.get)
        agent = Agent(
            random=Random(1),
            serve_within=dict.fromkeys(("INFO", "MESSAGE", "REFER", "NOTIFY", "UPDATE"), ()),
            serve_outside={"MESSAGE": ("text/plain",), "REFER": ()},
            login_for=lambda request, flow: Login(username="alice", password="wonderland"),
            guard_of=(lambda request, flow: guard) if guarded else None,
        )
        # As in the server: the stranger is refused, and whoever else begins something costs the gate a look.
        agent.admit = GATE.judge
        return agent

    # What the peer does.

    def raw(self) -> None:
        self.send(self.script.some(), self.script.one_of(self.flow, FLOW._replace(remote=STRANGER)))

    def ask(self) -> None:
        script = self.script
        method = script.one_of(*self.METHODS)
        to_tag = script.one_of("", "", self.recent(self.calls), "nobody")
        body = script.one_of(b"", b"v=0", b"hello", b"SIP/2.0 180 Ringing", b"SIP/2.0 200 OK")
        lines = [
            f"{method} sip:us@192.0.2.1 SIP/2.0",
            f"Via: SIP/2.0/UDP 192.0.2.2;branch={script.one_of('z9hG4bK-1', 'z9hG4bK-2', 'z9hG4bK-3', 'old')};rport",
            f"From: <sip:alice@192.0.2.2>{script.one_of(';tag=f', ';tag=g', '')}",
            f"To: <sip:us@192.0.2.1>{';tag=' + to_tag if to_tag else ''}",
            f"Call-ID: {script.one_of('c1', 'c2', self.call_id())}",
            f"CSeq: {script.one_of(1, 2, 3, 1000, 2**31 - 1)} {script.one_of(method, method, method, 'INVITE')}",
            f"Contact: {script.one_of('<sip:alice@192.0.2.2>', '<sip:a@[2001:db8::1];transport=tcp>', '<tel:1>', '*')}",
            script.one_of(
                *("X: y", "Require: 100rel, timer", "Supported: 100rel, timer, replaces", "Session-Expires: 90"),
                *("Expires: 1", "Record-Route: <sip:192.0.2.7;lr>", "Record-Route: <sip:192.0.2.7>", "Max-Forwards: 0"),
                *("Refer-To: <sip:b@c?Replaces=a>", "Refer-To: <sip:b@c?X-Speak=a>\r\nRefer-Sub: false"),
                *("Refer-To: <sip:b@c>", "Replaces: c1;to-tag=a;from-tag=f", "Event: refer"),
                *(f"Event: refer\r\nSubscription-State: {state}" for state in ("active", "terminated;reason=x")),
                *(self.rack(), "Subscription-State: terminated", "Authorization: Digest realm=example.com"),
            ),
        ]
        if body:
            lines.append("Content-Type: " + script.one_of("application/sdp", "text/plain", "message/sipfrag", "?"))
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode() + body, self.flow)

    def reply(self) -> None:
        """A response to a request that the agent has sent."""
        script = self.script
        asked = self.recent([message for message in self.heard if isinstance(message, Request)])
        if not isinstance(asked, Request) or asked.method == "ACK":
            return
        status = script.one_of(100, 180, 183, 200, 200, 202, 302, 401, 407, 408, 422, 481, 486, 487, 491, 500, 503)
        headers = [("Contact", "<sip:bob@192.0.2.2>"), ("Min-SE", "1800"), ("Retry-After", "1")]
        if status in (401, 407):
            name = "WWW-Authenticate" if status == 401 else "Proxy-Authenticate"
            headers.append((name, f'Digest realm="r", nonce="{script.number()}", qop="auth", stale=true'))
        headers += [
            script.one_of(
                *(("X", "y"), ("Require", "100rel"), ("Record-Route", "<sip:p;lr>"), ("Allow", "UPDATE")),
                *(("Session-Expires", "90;refresher=uac"), ("Session-Expires", "90;refresher=uas")),
            )
        ]
        headers += [("RSeq", str(script.one_of(1, 2, 1, 0)))]
        response = asked.response(status, to_tag=script.one_of("b", "c", None), headers=headers, body=b"v=0")
        self.send(response.serialise(), self.flow)

    def replay(self) -> None:
        """What the agent has said itself comes back, whole or spoilt."""
        message = self.recent(self.heard)
        if not isinstance(message, str):
            data = message.serialise()
            at = self.script.number() * len(data) // 256
            spoilt = data[:at] + self.script.some() + data[at + self.script.number() % 8 :]
            self.send(self.script.one_of(data, spoilt), self.flow)

    # What the host does.

    def place(self) -> None:
        from_ = NameAddr(uri=Uri(user="us", host="192.0.2.1"))
        target = Uri(user="bob", host="192.0.2.2")
        body, others = self.script.one_of((b"v=0", ()), (b"", ()), (b"v=0", (FLOW,)))
        ring_timeout_s = self.script.one_of(0.0, 5.0, 180.0)
        call = self.agent.invite(
            self.now, target, self.flow, from_=from_, body=body, others=others, ring_timeout_s=ring_timeout_s
        )
        self.calls.append(call)
        self.settle()

    def act(self) -> None:
        call, request, script = self.recent(self.calls), self.recent(self.requested), self.script
        agent, now = self.agent, self.now
        verb: Callable[[], object] = script.one_of(
            lambda: agent.ring(now, call, body=script.one_of(b"", b"v=0"), reliable=script.one_of(False, True)),
            lambda: agent.answer(now, call, body=b"v=0"),
            lambda: agent.reject(now, call, status=script.one_of(486, 302, 603)),
            lambda: agent.bye(now, call),
            lambda: agent.cancel(now, call),
            lambda: agent.reoffer(now, call, body=script.one_of(b"v=0", b"")),
            lambda: agent.update(now, call, body=script.one_of(b"v=0", b"")),
            lambda: agent.acknowledge(now, call, body=b"v=0"),
            lambda: agent.withdraw(now, call),
            lambda: agent.request_within(now, call, script.one_of("INFO", "REFER", "NOTIFY")),
            lambda: agent.respond(now, request, script.one_of(200, 202, 404)),
            lambda: self.retain(call),
            lambda: self.transfers.append(Transfer(agent, call, NameAddr(uri=Uri(user="c", host="d")), now=now)),
            lambda: self.refer(script.one_of("accept", "decline"), now),
            lambda: self.refer("progress", now, 180, "Ringing"),
            lambda: self.refer("finish", now, script.one_of(200, 486), "Over"),
        )
        with contextlib.suppress(LocalProtocolError):
            verb()
        self.settle()

    def retain(self, call: str) -> None:
        self.agent.retain(call)
        self.retained.append(call)

    def refer(self, verb: str, *arguments: Any) -> None:
        referral = self.recent(self.referrals)
        if isinstance(referral, Referral):
            getattr(referral, verb)(*arguments)

    def fail(self) -> None:
        """The connection breaks."""
        if self.flow.reliable:
            self.agent.flow_failed(self.flow, self.now)
            self.settle()

    def wait(self) -> None:
        self.pass_time(self.script.one_of(0.1, 0.6, 5.0, 33.0, 1000.0))

    # What comes of it.

    def send(self, data: bytes, flow: Flow) -> None:
        """A datagram comes: it may be answered once, and end what others wait for, each once."""
        waiting = self.agent.counters().transactions
        self.agent.receive(data, flow, self.now)
        sent = self.settle()
        responses = [message for message in sent if not isinstance(message, Request)]
        whole = [(message.via, message.cseq) for message in responses if message is not None]
        assert len(set(whole)) == len(whole), "answered twice"
        assert len(responses) <= 1 + waiting
        # ACK and BYE to a 2xx that is not wanted; ACK and the INVITE once more, as 401, 422 or 491 want it.
        assert len(sent) - len(responses) <= 2

    def settle(self) -> list[Request | Response | None]:
        """Take what has happened, and what is sent; None stands for a refusal that repeats what was refused."""
        for event in iter(self.agent.next_event, None):
            taken = [part.receive(event, self.now) for part in (*self.transfers, *self.referrals)]
            if any(taken):
                continue
            if isinstance(event, Offered | Reoffered) and event.call not in self.calls:
                self.calls.append(event.call)
            elif isinstance(event, Requested):
                self.requested.append(event.request)
                if event.message.method == "REFER" and self.script.number() % 2:
                    referral = Referral.open(self.agent, event, self.now)
                    self.referrals += [] if referral is None else [referral]
            elif isinstance(event, Ended):
                self.ended[event.call] += 1
                assert self.ended[event.call] == 1
        sent = [_read(data) for data, _ in self.agent.data_to_send()]
        self.heard += [message for message in sent if message is not None]
        return sent

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while (at := self.wake_at()) is not None and at <= end:
            self.now = max(self.now, at)
            for core in (self.agent, *self.transfers, *self.referrals):
                core.handle_timer(self.now)
            self.settle()
            after = self.wake_at()
            assert after is None or after > self.now, "a timer that goes off without end"
        self.now = end

    def wake_at(self) -> float | None:
        cores = (self.agent, *self.transfers, *self.referrals)
        return min((at for core in cores if (at := core.wake_at()) is not None), default=None)

    def lift(self) -> None:
        """Everybody hangs up and goes home: nothing is left."""
        for referral in self.referrals:
            for verb in (referral.decline, partial(referral.finish, status=480, reason="")):
                with contextlib.suppress(LocalProtocolError):
                    verb(self.now)
        for call in self.retained:
            self.agent.relinquish(call)
        for call in self.calls:
            for verb in (self.agent.bye, self.agent.cancel):
                with contextlib.suppress(LocalProtocolError):
                    verb(self.now, call)
            with contextlib.suppress(LocalProtocolError):
                self.agent.reject(self.now, call, status=480)
            with contextlib.suppress(LocalProtocolError):
                self.agent.bye(self.now, call)
        self.settle()
        self.pass_time(1000.0)
        for transfer in self.transfers:
            assert len(list(iter(transfer.next_event, None))) == 1, "a transfer has one outcome"
        counters = self.agent.counters()
        assert (counters.calls, counters.dialogs, counters.transactions) == (0, 0, 0), counters
        assert self.agent.wake_at() is None
        assert set(self.ended) == set(self.calls)
        left = {path: size for path, size in held(self.agent).items() if path not in BOUNDED}
        assert left == {path: size for path, size in held(self.fresh(guarded=False)).items() if path not in BOUNDED}

    def recent(self, things: list[Any]) -> Any:
        """One of the latest things, "none" if there are none."""
        return things[-1 - self.script.number() % min(len(things), 4)] if things else "none"

    def rack(self) -> str:
        """The RAck that acknowledges a reliable response of the agent's, if there is one (RFC 3262 section 7.2)."""
        reliable = [m for m in self.heard if isinstance(m, Response) and m.headers.get("RSeq")]
        response = self.recent(reliable)
        number = "1 1 INVITE" if isinstance(response, str) else f"{response.headers.get('RSeq')} {response.cseq}"
        return f"RAck: {number}"

    def call_id(self) -> str:
        """That of a message of the agent's."""
        message = self.recent(self.heard)
        return message if isinstance(message, str) else message.call_id


STEPS = ("ask", "ask", "reply", "reply", "act", "act", "act", "wait", "place", "replay", "raw", "fail")


def _read(data: bytes) -> Request | Response | None:
    try:
        return parse_datagram(data)
    except MalformedMessage:
        if data.startswith((b"SIP/2.0 400", b"SIP/2.0 416", b"SIP/2.0 505", b"SIP/2.0 513")):
            return None
        raise


# What is remembered of addresses that guessed passwords; it has a limit of its own.
BOUNDED = {"._offenders._guesses"}


def agent(data: bytes) -> None:
    """Whatever comes, nothing escapes, nobody is answered more than is due to him, and nothing is left in the end."""
    siege = Siege(Script(data))
    for _ in range(200):
        if siege.script:
            getattr(siege, siege.script.one_of(*STEPS))()
    siege.lift()


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (parser, stream, sdp, digest, agent)
}


def seeds(target: str) -> list[bytes]:
    """Inputs that reach much: every message of the torture tests, and what other tests are made of."""
    # Not at the top: what is fuzzed has to be instrumented when it is imported first.
    from tests import test_sip_agent, test_sip_digest, test_sip_parser, test_sip_sdp

    messages = [
        *_torture_messages(),
        *(data for data, _, _ in test_sip_agent.REFUSED.values()),
        *(test_sip_parser.OPTIONS, test_sip_parser.RINGING),
    ]
    if target == "parser":
        return messages
    if target == "stream":
        return [b"\x06" + test_sip_parser.STREAM, *(b"\x28" + message + test_sip_parser.STREAM for message in messages)]
    if target == "sdp":
        bodies = [message.partition(b"\r\n\r\n")[2] for message in messages]
        return [(test_sip_sdp.SESSION + test_sip_sdp.AUDIO).encode(), *bodies]
    if target == "digest":
        challenge = test_sip_digest.realm().challenges(0.0)[0]
        return [str(challenge).encode(), test_sip_digest.proof(challenge).encode()]
    # Two bytes say that nobody is challenged and that it is UDP, the next is the step that sends a message as it is.
    # Hashes are scripts as good as any.
    whole = [message + b" " * (len(message) % 2) for message in messages if len(message) < 510]
    sent = [bytes((0, 0, STEPS.index("raw"), len(message) // 2)) + message for message in whole]
    return sent + [hashlib.shake_128(bytes((number,))).digest(200) for number in range(50)]


def _torture_messages() -> list[bytes]:
    """What the torture tests give to the parser."""
    from tests import test_sip_torture as torture

    given: list[bytes] = []
    original = torture.parse_datagram

    def record(data: bytes) -> Request | Response:
        given.append(data)
        return original(data)

    torture.parse_datagram = record
    try:
        for name, test in vars(torture).items():
            if name.startswith("test_"):
                rows = [mark.args for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
                names, values = rows[0] if rows else ((), [()])
                for row in values:
                    test(*((row,) if isinstance(names, str) else row))
    finally:
        torture.parse_datagram = original
    return given
