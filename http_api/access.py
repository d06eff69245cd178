"""Who may do what: bearer tokens (RFC 6750), the roles that they have, how much each may ask for, and which web pages
may ask at all.

    a request -> check_origin -> client -> check -> spend -> the route
                 403 a page      401       403      429
                 of elsewhere

Of a token only the hash is kept: what is presented is hashed and compared with every one of them, so that how long it
takes tells nothing. Without any token everybody has every role; it is for the host to see that only this machine, or a
network that is trusted, can then connect.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from .problem import Problem
from .route import Access

__all__ = ["ROLES", "SUBPROTOCOL", "Budget", "Client", "Gate", "Guesses", "Quota", "Token"]

ROLES: Mapping[str, frozenset[Access]] = {
    "read": frozenset({Access.TOKEN, Access.READ}),
    "speak": frozenset({Access.TOKEN, Access.SPEAK}),
    "call": frozenset({Access.TOKEN, Access.READ, Access.SPEAK, Access.CALL}),
    "admin": frozenset(Access),
}
"""What each role opens. `speak` does not read: what others have spoken, and with whom, is not a program's business."""

# RFC 6750 section 2.1, b64token.
SECRET = re.compile(r"[A-Za-z0-9._~+/-]+=*")
MAX_SECRET_CHARS = 1024

SUBPROTOCOL = "mediaserver"
"""What a WebSocket speaks that brings its token as a subprotocol."""
SUBPROTOCOL_PREFIX = "bearer."

REALM = 'Bearer realm="mediaserver"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """Whoever presents the secret of this hash has these roles, under this name.

    sha256          of the secret
    roles           of ROLES
    requests_per_s  on the average, a second's worth of them at once; 0 for no limit
    max_speech      speech requests at a time; 0 for no limit of its own
    """

    name: str
    sha256: bytes = field(repr=False)
    roles: frozenset[str]
    requests_per_s: float = 0
    max_speech: int = 0

    def __post_init__(self) -> None:
        if len(self.sha256) != hashlib.sha256().digest_size:
            raise ValueError("sha256 is not the hash of anything")
        if not self.roles or not self.roles <= ROLES.keys():
            raise ValueError(f"roles are some of {', '.join(ROLES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Who asks.

    name        of the token; "" without one
    key         by which it is counted: the token, or the address
    opens       what it may ask for
    max_speech  speech requests at a time; None for what everybody has
    """

    name: str
    key: str
    opens: frozenset[Access]
    max_speech: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How much may still be asked for. `wait_s` is 0, or how long there is nothing."""

    limit: int
    window_s: int
    remaining: int
    reset_s: int
    wait_s: float

    def headers(self) -> dict[str, str]:
        """As draft-ietf-httpapi-ratelimit-headers-10 sections 3 and 4 tell it."""
        return {
            "RateLimit-Policy": f'"requests";q={self.limit};w={self.window_s}',
            "RateLimit": f'"requests";r={self.remaining};t={self.reset_s}',
        }


class Budget:
    """Requests by the second: a bucket that holds a second's worth, and one request at least."""

    def __init__(self, per_s: float, now: float) -> None:
        self._per_s = per_s
        self._depth = max(per_s, 1.0)
        self._level = self._depth
        self._filled_at = now

    def spend(self, now: float) -> Quota:
        """Take one, if there is one."""
        self._level = min(self._depth, self._level + (now - self._filled_at) * self._per_s)
        self._filled_at = now
        wait_s = 0.0 if self._level >= 1 else (1 - self._level) / self._per_s
        if not wait_s:
            self._level -= 1
        return Quota(
            limit=math.floor(self._depth),
            window_s=math.ceil(self._depth / self._per_s),
            remaining=math.floor(self._level),
            reset_s=math.ceil((self._depth - self._level) / self._per_s),
            wait_s=wait_s,
        )


class Guesses:
    """How late whoever presents wrong tokens is told so: a few at once, then each twice as late as the one before.

    Whoever has the right one waits for nobody, from the same address either: it may be that of a proxy.
    """

    FREE = 8
    FIRST_S = 0.125
    LONGEST_S = 4.0
    FORGIVEN_AFTER_S = 300.0
    ADDRESSES = 4096

    def __init__(self) -> None:
        self._by_place: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def delay_s(self, address: str, now: float) -> float:
        """Another wrong token came from `address`; how long to wait before it is told so."""
        place = _place(address)
        count, latest = self._by_place.pop(place, (0, now))
        if now - latest > self.FORGIVEN_AFTER_S:
            count = 0
        self._by_place[place] = (count + 1, now)
        if len(self._by_place) > self.ADDRESSES:
            self._by_place.popitem(last=False)
        over = count - self.FREE
        return 0.0 if over < 0 else min(self.FIRST_S * 2.0 ** min(over, 30), self.LONGEST_S)


class Gate:
    """The tokens in force, and the web pages (origins) that may ask from a browser beside the server's own."""

    def __init__(self, tokens: Sequence[Token] = (), *, origins: Sequence[str] = ()) -> None:
        self.guarded = bool(tokens)
        """Whether a token is asked for; that stays as it is."""
        self.guesses = Guesses()
        self._origins = frozenset(origins)
        self._tokens: tuple[Token, ...] = ()
        self._budgets: dict[str, Budget] = {}
        self._visits: dict[object, tuple[Token, Callable[[], object]]] = {}
        self._install(tokens)

    def replace(self, tokens: Sequence[Token]) -> None:
        """Have these tokens in force from now on; what is at work for one that is gone, or has changed, is ended.

        Raises ValueError for none, if there are some now: nobody is to find the gate open; or for some, if there are
        none.
        """
        if bool(tokens) != self.guarded:
            raise ValueError("whether a token is asked for is decided at the start")
        self._install(tokens)
        for token, end in list(self._visits.values()):
            if token not in self._tokens:
                end()

    def _install(self, tokens: Sequence[Token]) -> None:
        if len({token.name for token in tokens}) < len(tokens):
            raise ValueError("two tokens have the same name")
        if len({token.sha256 for token in tokens}) < len(tokens):
            raise ValueError("two tokens are the same")
        spent = {token: self._budgets[token.name] for token in self._tokens if token.name in self._budgets}
        self._tokens = tuple(tokens)
        self._budgets = {token.name: spent[token] for token in self._tokens if token in spent}

    def client(self, *, authorization: Sequence[str], protocols: Sequence[str], address: str) -> Client:
        """Who asks, by the values of Authorization and of Sec-WebSocket-Protocol.

        Raises Problem: 400 when it cannot be told which token is meant, 401 without a token that is in force.
        """
        offered = [protocol.strip() for value in protocols for protocol in value.split(",")]
        secrets = [offer.removeprefix(SUBPROTOCOL_PREFIX) for offer in offered if offer.startswith(SUBPROTOCOL_PREFIX)]
        if secrets and SUBPROTOCOL not in offered:
            # What is not answered by a subprotocol, browsers drop; and aiohttp logs the offers that it does not know.
            raise Problem(400, f"Offer the subprotocol {SUBPROTOCOL} beside the token.", headers=_challenge("request"))
        if not self.guarded:
            return Client(name="", key=address, opens=frozenset(Access))
        if len(authorization) + len(secrets) > 1:
            raise Problem(400, "Present one token, in one way.", headers=_challenge("request"))
        if authorization:
            scheme, _, secret = authorization[0].partition(" ")
            if scheme.lower() == "bearer":
                secrets = [secret.strip(" ")]
        if not secrets:
            # RFC 6750 section 3.1: no error code for whoever may not have known that a token is needed.
            raise Problem(401, "Present a token: Authorization: Bearer TOKEN.", headers={"WWW-Authenticate": REALM})
        token = self._find(secrets[0])
        if token is None:
            raise Problem(401, "This token is not in force.", headers=_challenge("token"))
        opens = frozenset[Access]().union(*(ROLES[role] for role in token.roles))
        return Client(name=token.name, key=f"token {token.name}", opens=opens, max_speech=token.max_speech or None)

    def check(self, client: Client, access: Access) -> None:
        """Whether `client` may. Raises Problem 403."""
        if access not in client.opens:
            raise Problem(
                403,
                f"The token {client.name} has not the role {access.value}.",
                headers=_challenge("scope", scope=access.value),
            )

    def spend(self, client: Client, now: float) -> Quota | None:
        """Count a request; what is left, or None where nothing is counted. Raises Problem 429."""
        token = self._token_of(client)
        if token is None or not token.requests_per_s:
            return None
        budget = self._budgets.get(token.name)
        if budget is None:
            budget = self._budgets[token.name] = Budget(token.requests_per_s, now)
        quota = budget.spend(now)
        if quota.wait_s:
            problem = Problem.of_overload(
                429,
                f"The token {token.name} may make {token.requests_per_s:g} requests in a second.",
                retry_after_s=quota.wait_s,
            )
            problem.headers |= quota.headers()
            raise problem
        return quota

    @contextmanager
    def visit(self, client: Client, end: Callable[[], object]) -> Iterator[None]:
        """While the block runs, `client` is at work; `end` is called when its token goes out of force."""
        token = self._token_of(client)
        if token is None:
            yield
            return
        visit = object()
        self._visits[visit] = token, end
        try:
            yield
        finally:
            del self._visits[visit]

    def check_origin(self, origin: str | None, host: str) -> None:
        """Whether a page of `origin` may change anything here, or open a WebSocket, `host` being where it asked.

        A browser lets every page send some requests and open a WebSocket to anywhere (RFC 6455 section 10.2). Where no
        token is asked for, a page of the server's own has to be at an address: what is a name here may be one that
        somebody else's DNS leads to us. Raises Problem 403.
        """
        if origin is None or origin in self._origins:
            return
        if _netloc(origin) != host:
            raise Problem.of_field(403, "Origin", "A page of another site may not connect, unless it is listed")
        if not (self.guarded or _is_nobodys_name(host)):
            raise Problem.of_field(
                403, "Origin", f"No token is asked for here, so a page at {host[:100]} may not connect, unless listed"
            )

    def cors(self, origin: str | None) -> dict[str, str]:
        """What an answer needs so that a page of `origin` may read it (Fetch Standard section 3.3)."""
        if not self._origins:
            return {}
        # Caches have to keep the answers apart, whether or not this one may be read.
        headers = {"Vary": "Origin"}
        if origin in self._origins and origin is not None:
            headers["Access-Control-Allow-Origin"] = origin
        return headers

    def _find(self, secret: str) -> Token | None:
        if len(secret) > MAX_SECRET_CHARS or not SECRET.fullmatch(secret):
            return None
        digest = hashlib.sha256(secret.encode()).digest()
        found = None
        for token in self._tokens:
            # All of them, each for as long, whichever it is.
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found

    def _token_of(self, client: Client) -> Token | None:
        return next((token for token in self._tokens if token.name == client.name), None)


def _challenge(error: str, *, scope: str | None = None) -> dict[str, str]:
    """RFC 6750 section 3."""
    code = {"request": "invalid_request", "token": "invalid_token", "scope": "insufficient_scope"}[error]
    return {"WWW-Authenticate": f'{REALM}, error="{code}"' + (f', scope="{scope}"' if scope else "")}


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _is_nobodys_name(host: str) -> bool:
    """Whether `host` (with or without a port) is an address, or this machine's own name for itself."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _place(address: str) -> str:
    """What counts as one address: an IPv6 network of 64 bits is one customer's (RFC 6177)."""
    if ":" not in address:
        return address
    return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
