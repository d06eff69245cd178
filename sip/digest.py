"""Digest authentication (RFC 3261 section 22, RFC 7616, RFC 8760), as the one who proves and as the one who checks.

A client has a `Login`, and for each dialog or account a `Keyring`, which learns from every 401 and 407 and gives the
header fields that answer them. A server has one `Realm`, whose `check` names the user of a request or raises the 401
that asks for proof.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from .errors import LocalProtocolError, RemoteProtocolError
from .headers import quoted, unquoted
from .message import REASONS, Request, Response
from .uri import Uri

__all__ = [
    "ALGORITHMS",
    "CREDENTIALS",
    "Challenge",
    "Credentials",
    "Keyring",
    "Login",
    "Realm",
    "Space",
    "WrongProof",
    "topmost",
]

# Algorithm, in upper case -> name in hashlib.
ALGORITHMS = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}
# RFC 8760 section 2.3: the strongest first; OpenSSL may have been built without the first one.
STRONGEST_FIRST = tuple(name for name in reversed(ALGORITHMS) if ALGORITHMS[name] in hashlib.algorithms_available)
_SESSION = "-SESS"

_SCHEME = re.compile(r"[ \t]*Digest[ \t]+", re.IGNORECASE)
_PARAMETER = re.compile(
    r"""[ \t]*([A-Za-z0-9*_.-]+)[ \t]*=[ \t]*(?:("[^"\\]*(?:\\.[^"\\]*)*")|([^\s",;]*))[ \t]*(?:,|$)""", re.DOTALL
)
_COUNT = re.compile(r"[0-9A-Fa-f]{8}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What an Authorization or Proxy-Authorization header field says.

    response     hexadecimal digest
    algorithm    as it is written; "" means MD5
    qop          "auth", "auth-int", or "" from an RFC 2069 client, which sends no cnonce and no count either
    nonce_count  how often the client has used the nonce, this time included
    """

    username: str
    realm: str
    nonce: str
    uri: str
    response: str
    algorithm: str = ""
    qop: str = ""
    cnonce: str = ""
    nonce_count: int = 0
    opaque: str | None = None

    @classmethod
    def parse(cls, text: str) -> Credentials:
        """Raises RemoteProtocolError (400), also for a scheme other than Digest."""
        said = _said(text)
        count = said.get("nc", "00000000")
        if not _COUNT.fullmatch(count):
            raise RemoteProtocolError("Bad credentials: nc is not eight hexadecimal digits")
        try:
            return cls(
                username=said["username"],
                realm=said["realm"],
                nonce=said["nonce"],
                uri=said["uri"],
                response=said["response"],
                algorithm=said.get("algorithm", ""),
                qop=said.get("qop", "").lower(),
                cnonce=said.get("cnonce", ""),
                nonce_count=int(count, 16),
                opaque=said.get("opaque"),
            )
        except KeyError as error:
            raise RemoteProtocolError(f"Bad credentials: no {error.args[0]}") from error

    def __str__(self) -> str:
        said = [
            f"username={quoted(self.username)}",
            f"realm={quoted(self.realm)}",
            f"nonce={quoted(self.nonce)}",
            f"uri={quoted(self.uri)}",
            f"response={quoted(self.response)}",
        ]
        if self.algorithm:
            said.append(f"algorithm={self.algorithm}")
        if self.qop:
            # RFC 7616 section 3.4: neither qop nor nc is quoted here.
            said += [f"qop={self.qop}", f"nc={self.nonce_count:08x}", f"cnonce={quoted(self.cnonce)}"]
        if self.opaque is not None:
            said.append(f"opaque={quoted(self.opaque)}")
        return "Digest " + ", ".join(said)

    def expected_response(self, *, password: str, method: str, body: bytes) -> str:
        """The `response` that one who knows `password` sends with all else here.

        Raises RemoteProtocolError (400) for an algorithm or a qop that is not known.
        """
        algorithm = self.algorithm.upper() or "MD5"
        digest = _digest(algorithm.removesuffix(_SESSION))
        if digest is None or self.qop not in ("", "auth", "auth-int"):
            raise RemoteProtocolError("Bad credentials: unknown algorithm or qop")
        secret = digest(f"{self.username}:{self.realm}:{password}".encode())
        if algorithm.endswith(_SESSION):
            secret = digest(f"{secret}:{self.nonce}:{self.cnonce}".encode())
        asked = f"{method}:{self.uri}"
        if self.qop == "auth-int":
            asked += ":" + digest(body)
        freshness = f"{self.nonce}:{self.nonce_count:08x}:{self.cnonce}:{self.qop}" if self.qop else self.nonce
        return digest(f"{secret}:{freshness}:{digest(asked.encode())}".encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """What a WWW-Authenticate or Proxy-Authenticate header field asks for.

    algorithm  as it is written; "" means MD5
    qop        what may be protected; empty from an RFC 2069 server
    stale      the credentials were right, and only their nonce was too old
    """

    realm: str
    nonce: str
    algorithm: str = ""
    qop: tuple[str, ...] = ()
    opaque: str | None = None
    stale: bool = False

    @classmethod
    def parse(cls, text: str) -> Challenge:
        """Raises RemoteProtocolError (400), also for a scheme other than Digest."""
        said = _said(text)
        if "realm" not in said or "nonce" not in said:
            raise RemoteProtocolError("Bad challenge: no realm or no nonce")
        return cls(
            realm=said["realm"],
            nonce=said["nonce"],
            algorithm=said.get("algorithm", ""),
            qop=tuple(option.strip().lower() for option in said.get("qop", "").split(",") if option.strip()),
            opaque=said.get("opaque"),
            stale=said.get("stale", "").lower() == "true",
        )

    def __str__(self) -> str:
        said = [f"realm={quoted(self.realm)}", f"nonce={quoted(self.nonce)}"]
        if self.algorithm:
            said.append(f"algorithm={self.algorithm}")
        if self.qop:
            said.append(f"qop={quoted(','.join(self.qop))}")
        if self.opaque is not None:
            said.append(f"opaque={quoted(self.opaque)}")
        if self.stale:
            said.append("stale=true")
        return "Digest " + ", ".join(said)

    @property
    def supported(self) -> bool:
        """Whether we can meet it."""
        known = _digest(self.algorithm.upper().removesuffix(_SESSION) or "MD5") is not None
        return known and (not self.qop or "auth" in self.qop or "auth-int" in self.qop)

    def credentials(
        self,
        *,
        username: str,
        password: str,
        method: str,
        uri: str,
        cnonce: str,
        nonce_count: int = 1,
        body: bytes = b"",
    ) -> Credentials:
        """The proof, for a request of `method` to the Request-URI `uri`.

        cnonce       a fresh random string
        nonce_count  1 the first time that this nonce is used, and 1 more each further time

        Raises LocalProtocolError if the challenge is not `supported`.
        """
        if not self.supported:
            raise LocalProtocolError(f"cannot meet the challenge {self}")
        qop = "auth" if "auth" in self.qop else "auth-int" if self.qop else ""
        unsigned = Credentials(
            username=username,
            realm=self.realm,
            nonce=self.nonce,
            uri=uri,
            response="",
            algorithm=self.algorithm,
            qop=qop,
            cnonce=cnonce if qop or self.algorithm.upper().endswith(_SESSION) else "",
            nonce_count=nonce_count if qop else 0,
            opaque=self.opaque,
        )
        response = unsigned.expected_response(password=password, method=method, body=body)
        return replace(unsigned, response=response)


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A user's name and password, which `repr` does not show.

    realm  the only one that is given proof; "" for every one that asks for it
    """

    username: str
    password: str = field(repr=False)
    realm: str = ""


# Who asks: the header field that answers, and the realm.
Space = tuple[str, str]

# RFC 3261 sections 22.2 and 22.3.
_ANSWERS = {"WWW-Authenticate": "Authorization", "Proxy-Authenticate": "Proxy-Authorization"}
CREDENTIALS = tuple(_ANSWERS.values())
# Proxies on the way may each ask for proof of their own; a peer that invents realms must not be answered for ever.
_MOST_SPACES = 4


class Keyring:
    """The challenges that one login has met in one dialog or account, and how often each of them was answered.

    A request carries an answer to all of them, each nonce counted once more, so that only the first is challenged.
    """

    def __init__(self, login: Login) -> None:
        self._login = login
        self._met: dict[Space, tuple[Challenge, int]] = {}

    def learn(self, response: Response, answered: Counter[Space]) -> bool:
        """Take up what a 401 or 407 asks for. True if it is worth sending the request once more.

        answered  how often each space has had an answer from the tries of this very request; counted up here

        RFC 3261 section 22.2: whoever refuses an answer is not given the same one again. What a new nonce excuses, a
        second one does not.
        """
        fresh: dict[Space, Challenge] = {}
        for asks, answers in _ANSWERS.items():
            for challenge in topmost(response.headers.get_all(asks)):
                if self._login.realm in ("", challenge.realm):
                    fresh[answers, challenge.realm] = challenge
        for space, challenge in fresh.items():
            if answered[space] > 1 or (answered[space] == 1 and not challenge.stale):
                self._met.pop(space, None)
                return False
        if len(answered.keys() | fresh.keys()) > _MOST_SPACES:
            return False
        for space, challenge in fresh.items():
            answered[space] += 1
            self._met.pop(space, None)
            self._met[space] = (challenge, 0)
        while len(self._met) > _MOST_SPACES:
            del self._met[next(iter(self._met))]
        return bool(fresh)

    def fields(self, method: str, uri: Uri, body: bytes, *, cnonce: str) -> list[tuple[str, str]]:
        """The Authorization and Proxy-Authorization of the next request; `cnonce` is a fresh random string."""
        fields = []
        for (name, _), (challenge, count) in self._met.items():
            credentials = challenge.credentials(
                username=self._login.username,
                password=self._login.password,
                method=method,
                uri=str(uri),
                cnonce=cnonce,
                nonce_count=count + 1,
                body=body,
            )
            fields.append((name, str(credentials)))
        self._met = {space: (challenge, count + 1) for space, (challenge, count) in self._met.items()}
        return fields


def topmost(challenges: Iterable[str]) -> tuple[Challenge, ...]:
    """Of some WWW-Authenticate or Proxy-Authenticate texts, of each realm the first that can be met.

    RFC 8760 section 2.4: the server's order is its preference. RFC 3261 section 22.3: several realms may ask at once.
    """
    found: dict[str, Challenge] = {}
    for text in challenges:
        try:
            challenge = Challenge.parse(text)
        except RemoteProtocolError:
            continue
        if challenge.supported:
            found.setdefault(challenge.realm, challenge)
    return tuple(found.values())


class WrongProof(RemoteProtocolError):
    """The 401 to one who answered a challenge of ours, and answered it wrong: the password has been guessed at."""


class Realm:
    """A protection space, as its server sees it.

    Nonces are signed rather than stored; what is remembered is how often each was used, of at most `remembered` nonces.
    A nonce out of that range, like one that is too old or a count that was seen before, costs its user one more round
    (stale=true) and gives an eavesdropper nothing. A nonce serves the address that it was given to; whoever uses one
    that is not good learns nothing about the password (RFC 7616 section 3.3: stale says that the nonce is invalid).
    """

    def __init__(
        self,
        name: str,
        *,
        secret: bytes,
        algorithms: tuple[str, ...] = STRONGEST_FIRST,
        nonce_lifetime_s: float = 300.0,
        remembered: int = 10_000,
    ) -> None:
        """`secret` is at least 16 random bytes; `algorithms` come in the order of preference.

        Raises LocalProtocolError for a shorter secret and for an unknown algorithm.
        """
        if len(secret) < 16:
            raise LocalProtocolError("the secret of a realm needs 16 bytes")
        unknown = [algorithm for algorithm in algorithms if _digest(algorithm) is None]
        if unknown or not algorithms:
            raise LocalProtocolError(f"unknown digest algorithms: {unknown}")
        self.name = name
        self._secret = secret
        self._algorithms = algorithms
        self._lifetime_ms = round(nonce_lifetime_s * 1000)
        self._remembered = remembered
        self._issued = 0
        self._counts: dict[int, int] = {}
        self._forgotten = 0

    def challenges(self, now: float, *, source: str = "", stale: bool = False) -> tuple[Challenge, ...]:
        """One for each algorithm, all with one new nonce.

        now     in seconds of any clock that goes on steadily
        source  the address that the nonce is to serve
        """
        nonce = self._nonce(now, source)
        return tuple(
            Challenge(realm=self.name, nonce=nonce, algorithm=algorithm, qop=("auth",), stale=stale)
            for algorithm in self._algorithms
        )

    def unauthorised(self, now: float, *, source: str = "", stale: bool = False) -> RemoteProtocolError:
        """The 401 that asks for proof."""
        return RemoteProtocolError(REASONS[401], status=401, headers=self._fields(now, source, stale=stale))

    def check(self, request: Request, password_of: Callable[[str], str | None], now: float, *, source: str = "") -> str:
        """The name of the user who sent `request`; `password_of` gives None for a user that does not exist.

        Raises RemoteProtocolError: 401 with challenges if there is no proof; its kind WrongProof, which looks the same
        to the peer, alike for a wrong password and for an unknown user.
        """
        credentials = self.answer(request)
        if credentials is None:
            raise self.unauthorised(now, source=source)
        number = self._number(credentials.nonce, now, source)
        if number is None:
            raise self.unauthorised(now, source=source, stale=True)
        password = password_of(credentials.username)
        expected = credentials.expected_response(password=password or "", method=request.method, body=request.body)
        proven = hmac.compare_digest(expected.encode(), credentials.response.lower().encode())
        # The Request-URI is not compared with `uri`: proxies on the way change it (RFC 3261 section 22.4).
        if not proven or password is None:
            raise WrongProof(REASONS[401], status=401, headers=self._fields(now, source))
        # Without qop there is no count, so that such a nonce serves once.
        if not self._counted(number, credentials.nonce_count or 1):
            raise self.unauthorised(now, source=source, stale=True)
        return credentials.username

    def answer(self, request: Request) -> Credentials | None:
        """What `request` answers our challenge with, right or wrong; None if it does not."""
        for text in request.headers.get_all("Authorization"):
            try:
                credentials = Credentials.parse(text)
            except RemoteProtocolError:
                continue
            if credentials.realm == self.name:
                asked = (credentials.algorithm.upper() or "MD5") in self._algorithms
                return credentials if asked and credentials.qop in ("", "auth") else None
        return None

    def _nonce(self, now: float, source: str) -> str:
        self._issued += 1
        content = self._issued.to_bytes(8) + round(now * 1000).to_bytes(8)
        return base64.urlsafe_b64encode(content + self._signature(content, source)).decode().rstrip("=")

    def _number(self, nonce: str, now: float, source: str) -> int | None:
        """Which of our nonces this is; None if it is none of ours, was given to another address, or is too old."""
        try:
            raw = base64.urlsafe_b64decode(nonce + "=" * (-len(nonce) % 4))
        except (binascii.Error, ValueError):
            return None
        content, signature = raw[:16], raw[16:]
        if not hmac.compare_digest(self._signature(content, source), signature):
            return None
        age_ms = round(now * 1000) - int.from_bytes(content[8:])
        return int.from_bytes(content[:8]) if 0 <= age_ms <= self._lifetime_ms else None

    def _signature(self, content: bytes, source: str) -> bytes:
        place = f"{self.name}\0{source}\0".encode()
        return hmac.digest(self._secret, place + content, "sha256")[:16]

    def _counted(self, number: int, count: int) -> bool:
        """Whether this use of a nonce is a new one; if so, it is noted."""
        if number <= self._forgotten or count <= self._counts.get(number, 0):
            return False
        self._counts[number] = count
        if len(self._counts) > self._remembered:
            first = next(iter(self._counts))
            del self._counts[first]
            self._forgotten = max(self._forgotten, first)
        return True

    def _fields(self, now: float, source: str, *, stale: bool = False) -> tuple[tuple[str, str], ...]:
        challenges = self.challenges(now, source=source, stale=stale)
        return tuple(("WWW-Authenticate", str(challenge)) for challenge in challenges)


def _said(text: str) -> dict[str, str]:
    """The parameters of a Digest challenge or credentials: lower-case name -> value, unquoted."""
    match = _SCHEME.match(text)
    if match is None:
        raise RemoteProtocolError("Not Digest authentication")
    said: dict[str, str] = {}
    position = match.end()
    while position < len(text):
        match = _PARAMETER.match(text, position)
        if match is None or match[1].lower() in said:
            raise RemoteProtocolError("Bad Digest authentication")
        name, quoted_value, bare = match.groups()
        said[name.lower()] = bare if quoted_value is None else unquoted(quoted_value)
        position = match.end()
    return said


def _digest(algorithm: str) -> Callable[[bytes], str] | None:
    """The hexadecimal digest function of that name; None if it is not known here."""
    name = ALGORITHMS.get(algorithm)
    if name is None or name not in hashlib.algorithms_available:
        return None
    return lambda data: hashlib.new(name, data, usedforsecurity=False).hexdigest()
