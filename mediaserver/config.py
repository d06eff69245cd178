"""The configuration: one TOML file, then the environment on top, into one frozen value that is checked before use.

A key `sip.listen` is overridden by the variable MEDIASERVER_SIP__LISTEN. LOG_LEVEL, REDIS_URL and CHATTERBOX_CFG_SCALE
are understood by their customary names. An unknown key is an error, because a misspelt one would otherwise be silent.
deploy/mediaserver.toml is the commented reference.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import string
import tomllib
from collections.abc import Mapping
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

import http_api
import sip
from mediaserver import signature

__all__ = [
    "Address",
    "Config",
    "ConfigError",
    "Engine",
    "Recordings",
    "Route",
    "Then",
    "Token",
    "Trace",
    "Trunk",
    "User",
    "Webhook",
    "Webhooks",
    "load",
]

PREFIX = "MEDIASERVER_"
CUSTOMARY_VARIABLES = {
    "LOG_LEVEL": "log.level",
    "REDIS_URL": "redis.url",
    "CHATTERBOX_CFG_SCALE": "engine.chatterbox_cfg_scale",
}
UNION_MEMBER = re.compile(r"function-|is-instance|lax-or-strict")
TEMPLATE_FIELDS = frozenset({"from", "to"})

Model = TypeVar("Model", bound=BaseModel)


class ConfigError(Exception):
    """The configuration cannot be used; the message names each key at fault and what it wants."""


class Address(BaseModel):
    """A host and a port; `str()` gives "host:port", an IPv6 host in brackets."""

    model_config = ConfigDict(frozen=True)
    host: str
    port: int = Field(ge=0, le=65535)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _parse_address(value: object) -> object:
    if not isinstance(value, str):
        return value
    host, colon, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit()):
        raise ValueError('write it as "host:port", such as "0.0.0.0:5060" or "[::]:5060"')
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if host != "localhost":
            raise ValueError(f"{host!r} is not an IP address of this machine") from None
        host = "127.0.0.1"
    return {"host": host, "port": int(port)}


def _parse_port_range(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", value.replace(" ", ""))
    if not match:
        raise ValueError('write it as "first-last", such as "20000-29999"')
    first, last = int(match[1]), int(match[2])
    if not 1024 <= first < last <= 65535:
        raise ValueError("the range must run upwards within 1024-65535 and hold at least one port pair")
    return range(first, last + 1)


def _check_pattern(value: str) -> str:
    if len(value) > 1 and value.startswith("/") and value.endswith("/"):
        try:
            re.compile(value[1:-1])
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
    return value


def _check_template(value: str) -> str:
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(value) if field is not None]
    except ValueError as error:
        raise ValueError(f"not a template: {error}; write a literal brace as {{{{ or }}}}") from None
    if unknown := set(fields) - TEMPLATE_FIELDS:
        raise ValueError(f"unknown field {{{min(unknown)}}}; a template knows {{from}} and {{to}}")
    return value


def _check_advertised_host(value: str) -> str:
    if value:
        ipaddress.ip_address(value)
    return value


def _parse_addresses(value: object) -> object:
    """One address is a list of one."""
    items = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(item, str | Address) for item in items):
        raise ValueError('write it as "host:port", or as a list such as ["0.0.0.0:5060", "[::]:5060"]')
    if len({str(item) for item in items}) != len(items):
        raise ValueError("it names an address twice")
    return tuple(_parse_address(item) for item in items)


ListenAddress = Annotated[Address, BeforeValidator(_parse_address)]
ListenAddresses = Annotated[tuple[Address, ...], BeforeValidator(_parse_addresses)]
PortRange = Annotated[range, BeforeValidator(_parse_port_range)]
Pattern = Annotated[str, AfterValidator(_check_pattern)]
Template = Annotated[str, AfterValidator(_check_template)]
AdvertisedHost = Annotated[str, AfterValidator(_check_advertised_host)]
Network = Annotated[
    ipaddress.IPv4Network | ipaddress.IPv6Network,
    BeforeValidator(lambda value: ipaddress.ip_network(value) if isinstance(value, str) else value),
]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


PRIVATE_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")
)


class Sip(Section):
    """`advertise` is the public IP address written into Via and Contact when this machine stands behind a NAT.

    listen       one address or several, of either family; the first one is named where there is room for one only
    networks     who may call; from elsewhere a request is refused (403) or, which hides the server, ignored: `unknown`
    calls_per_s  new calls in a second, and as many at once; 0 for no limit
    refer        whether peers may have us place calls by REFER: "off", or "trusted": those in refer_networks
    drain_s      how long calls may go on to speak once the server is to stop
    realm        what callers are told that their password is for, where one is asked for: see Trunk and User

    session_expires_s, min_se_s         how long a call lasts unless a request within it shows that both sides are
                                        there, which is sent at half that time, and the least that peers may ask for
    tls_certificate, tls_key, tls_ca    PEM files; without a CA it is the system's that count
    tls_verify_client                   whoever connects by TLS must have a certificate of the CA
    max_connections, max_connections_per_address    of TCP and TLS, of either direction, at a time
    """

    listen: ListenAddresses = Field(default=(Address(host="0.0.0.0", port=5060),), min_length=1)
    advertise: AdvertisedHost = ""
    networks: tuple[Network, ...] = PRIVATE_NETWORKS
    unknown: Literal["refuse", "ignore"] = "refuse"
    max_calls: int = Field(default=1000, ge=1)
    calls_per_s: float = Field(default=0, ge=0)
    refer: Literal["off", "trusted"] = "off"
    refer_networks: tuple[Network, ...] = ()
    drain_s: float = Field(default=25, ge=0, le=86_400)
    realm: str = Field(default="mediaserver", min_length=1)
    max_call_s: float = Field(default=7200, gt=0, le=7 * 86_400)
    session_expires_s: int = Field(default=1800, ge=0, le=86_400)
    min_se_s: int = Field(default=sip.LEAST_MIN_SE_S, ge=sip.LEAST_MIN_SE_S, le=86_400)
    max_text_chars: int = Field(default=5000, ge=1, le=100_000)
    tls_listen: ListenAddresses = ()
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    tls_verify_client: bool = False
    tls_alpn: tuple[str, ...] = ()
    max_connections: int = Field(default=1000, ge=1)
    max_connections_per_address: int = Field(default=250, ge=1)

    @property
    def media_host(self) -> str:
        """What RTP binds to, so that every peer who can reach us by SIP can by RTP; "::" serves both families."""
        hosts = {address.host for address in (*self.listen, *self.tls_listen)}
        if len(hosts) == 1:
            return hosts.pop()
        return "::" if any(":" in host for host in hosts) else "0.0.0.0"

    @property
    def advertised(self) -> tuple[str, int] | None:
        """What peers reach us at by UDP and TCP where that is not the address that we listen on."""
        if not self.advertise:
            return None
        ports = [address.port for address in self.listen if (":" in address.host) == (":" in self.advertise)]
        return (self.advertise, (ports or [self.listen[0].port])[0])

    @model_validator(mode="after")
    def _tls_is_complete(self) -> Sip:
        if self.tls_listen and self.tls_certificate is None:
            raise ValueError("tls_listen takes tls_certificate, and tls_key unless that file has the key too")
        if self.tls_key is not None and self.tls_certificate is None:
            raise ValueError("tls_key takes tls_certificate")
        return self

    @model_validator(mode="after")
    def _sessions_may_last(self) -> Sip:
        if 0 < self.session_expires_s < self.min_se_s:
            raise ValueError("session_expires_s is 0 (no timer of our own) or at least min_se_s")
        return self

    @model_validator(mode="after")
    def _trusts_somebody(self) -> Sip:
        if self.refer == "trusted" and not self.refer_networks:
            raise ValueError('refer = "trusted" needs refer_networks')
        return self


def _check_target(value: str) -> str:
    try:
        uri = sip.Uri.parse(f"sip:{value}")
    except sip.RemoteProtocolError as error:
        raise ValueError(f'write it as "host", "host:port" or "host;transport=tcp": {error}') from None
    if uri.user or uri.headers or uri.transport not in ("", "udp", "tcp", "tls"):
        raise ValueError('write it as "host", "host:port" or "host;transport=tcp"')
    return value


def _check_domain(value: str) -> str:
    try:
        if value:
            str(sip.Uri(host=value))
    except sip.LocalProtocolError:
        raise ValueError("write a name or an address, and nothing else") from None
    return value


Domain = Annotated[str, AfterValidator(_check_domain)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Target = Annotated[str, AfterValidator(_check_target)]


class User(Section):
    """One who calls from outside of all trunks' networks and proves by digest who it is.

    As soon as there is one, every such call is asked for proof.
    """

    name: Name
    password: SecretStr


class Trunk(Section):
    """A PBX or a carrier.

    targets    its addresses or names, the preferred one first
    domain     what its accounts are of, and the registrar's name; the first target's by default
    username   we prove with it who we are, where we are asked; password and realm (any, by default) likewise
    register   whether to keep a registration there, for `expires_s` each time
    networks   where its calls come from; without any, from the addresses of the targets
    inbound_username, inbound_password
               what it has to prove in its turn; without them its address is enough
    codecs     that its calls may use, in our order
    max_calls, calls_per_s
               as in [sip], for this trunk alone; 0 for no limit of its own
    probe_s    how often it is asked by OPTIONS whether it is there; 0 for never
    """

    name: Name
    targets: tuple[Target, ...] = Field(min_length=1)
    domain: Domain = ""
    username: str = ""
    password: SecretStr = SecretStr("")
    realm: str = ""
    register_: bool = Field(default=False, alias="register")
    expires_s: int = Field(default=3600, ge=60, le=86_400)
    networks: tuple[Network, ...] = ()
    inbound_username: str = ""
    inbound_password: SecretStr = SecretStr("")
    codecs: tuple[Literal["PCMU", "PCMA"], ...] = Field(default=("PCMU", "PCMA"), min_length=1)
    max_calls: int = Field(default=0, ge=0)
    calls_per_s: float = Field(default=0, ge=0)
    probe_s: float = Field(default=30, ge=0, le=3600)

    @model_validator(mode="after")
    def _fits_together(self) -> Trunk:
        if self.register_ and not self.username:
            raise ValueError("register needs a username")
        if self.password.get_secret_value() and not self.username:
            raise ValueError("password needs a username")
        if bool(self.inbound_username) != bool(self.inbound_password.get_secret_value()):
            raise ValueError("inbound_username and inbound_password go together")
        if 0 < self.probe_s < 5:
            raise ValueError("probe_s must be 0 or at least 5")
        if len(set(self.codecs)) != len(self.codecs):
            raise ValueError("codecs names one twice")
        return self

    @property
    def uris(self) -> tuple[sip.Uri, ...]:
        """The targets."""
        return tuple(sip.Uri.parse(f"sip:{target}") for target in self.targets)

    @property
    def registrar(self) -> sip.Uri:
        """The Request-URI of a REGISTER."""
        return sip.Uri(host=self.domain or self.uris[0].host)

    @property
    def login(self) -> sip.Login | None:
        """With what we prove who we are."""
        if not self.username:
            return None
        return sip.Login(username=self.username, password=self.password.get_secret_value(), realm=self.realm)


def _check_origin(value: str) -> str:
    # RFC 6454 section 6.2: what browsers send has no path, and no port where it is the scheme's own.
    if not re.fullmatch(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?", value):
        raise ValueError('write it as browsers do, such as "https://console.example.com" or "http://localhost:3000"')
    return value


def _check_secret(value: SecretStr | None) -> SecretStr | None:
    # RFC 6750 section 2.1, b64token. What can be guessed is no token.
    if value is not None and not re.fullmatch(r"(?=.{16,512}$)[A-Za-z0-9._~+/-]+=*", value.get_secret_value()):
        raise ValueError("at least 16 letters, digits and ._~+/- (openssl rand -hex 32 makes one)")
    return value


class Token(Section):
    """Whoever presents it over HTTP (RFC 6750) may do what its roles say, and is known in the logs by its name.

    token           or, so that the configuration tells nobody, its sha256, in hexadecimal
    roles           "read", "speak", "call" (which includes both) and "admin" (which includes all)
    requests_per_s  and as many at once; 0 for no limit
    max_speech      speech requests at a time, of http.max_concurrent; 0 for no limit of its own
    """

    name: Name
    token: Annotated[SecretStr | None, AfterValidator(_check_secret)] = None
    sha256: Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{64}$")] | None = None
    roles: tuple[Literal["read", "speak", "call", "admin"], ...] = Field(min_length=1)
    requests_per_s: float = Field(default=0, ge=0)
    max_speech: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _is_one_token(self) -> Token:
        if (self.token is None) == (self.sha256 is None):
            raise ValueError("give exactly one of token and sha256")
        return self

    @property
    def bearer(self) -> http_api.Token:
        """As the HTTP API knows it."""
        secret = "" if self.token is None else self.token.get_secret_value()
        return http_api.Token(
            name=self.name,
            sha256=bytes.fromhex(self.sha256) if self.sha256 else hashlib.sha256(secret.encode()).digest(),
            roles=frozenset(self.roles),
            requests_per_s=self.requests_per_s,
            max_speech=self.max_speech,
        )


class TokenFile(Section):
    token: tuple[Token, ...] = Field(min_length=1)


class Http(Section):
    """Without any token everybody may do everything, so it then listens on loopback only unless told otherwise.

    token_file             more [[token]]s, in a TOML file of their own, which SIGHUP has read anew
    allow_unauthenticated  without any token, listen beyond this machine all the same
    cors_origins           of other sites' pages that may ask from a browser
    tls_certificate, tls_key
                           PEM files, with which it is HTTPS; the key may be in the file of the certificate
    """

    listen: ListenAddress = Address(host="127.0.0.1", port=8080)
    token_file: Path | None = None
    allow_unauthenticated: bool = False
    cors_origins: tuple[Annotated[str, AfterValidator(_check_origin)], ...] = ()
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    max_text_chars: int = Field(default=5000, ge=1, le=1_000_000)
    max_body_bytes: int = Field(default=65536, ge=1024, le=16 * 1024 * 1024)
    max_concurrent: int = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _tls_is_complete(self) -> Http:
        if self.tls_key is not None and self.tls_certificate is None:
            raise ValueError("tls_key takes tls_certificate")
        return self


class Rtp(Section):
    """`start_ms` of speech must be ready before an utterance starts, so that the engine's jitter is not heard.

    threads        that send, at most; 0 for one per core. A second one begins with 1,000 streams
    push_networks  where POST /v1/rtp may send: an open one would be a traffic reflector
    max_pushes     that are alive at a time
    """

    ports: PortRange = range(20000, 30000)
    advertise: AdvertisedHost = ""
    start_ms: int = Field(default=300, ge=0, le=2000)
    ring_ms: int = Field(default=1000, ge=400, le=10_000)
    threads: int = Field(default=0, ge=0, le=16)
    silence_timeout_s: float = Field(default=0, ge=0, description="no RTP from the peer for so long ends the call")
    push_networks: tuple[Network, ...] = PRIVATE_NETWORKS
    max_pushes: int = Field(default=200, ge=1)

    @model_validator(mode="after")
    def _ring_holds_the_start(self) -> Rtp:
        if self.ring_ms < self.start_ms + 100:
            raise ValueError(f"ring_ms must be at least start_ms + 100, that is {self.start_ms + 100}")
        return self


class Calls(Section):
    """Calls that the HTTP API places: by a trunk, or to a SIP URI that leads into one of `networks`.

    record_file    gets a line of JSON for every call that has ended; record_text: with what was said
    barge_in_dbfs  what is quieter is no speech that breaks in on ours: our own echo, say
    clips_mb       memory for audio that was uploaded, or fetched, for calls: 64 are about 70 minutes
    """

    networks: tuple[Network, ...] = PRIVATE_NETWORKS
    record_file: Path | None = None
    record_text: bool = False
    barge_in_dbfs: float = Field(default=-40, ge=-60, le=-10)
    clips_mb: int = Field(default=64, ge=1)


class Recordings(Section):
    """Recording calls over HTTP. It is off by default: whose voice is kept has to know, and mostly to agree.

    path         a directory; by default it is beside the speakers
    max_s        the longest recording
    max_mb       of all together: then no more is recorded until some are deleted
    min_free_mb  that are left free on the disk
    keep_days    after which a recording is deleted; 0 for never
    """

    enabled: bool = False
    path: Path | None = None
    max_s: float = Field(default=3600, gt=0, le=86_400)
    max_mb: int = Field(default=10_000, ge=1)
    min_free_mb: int = Field(default=1000, ge=0)
    keep_days: float = Field(default=0, ge=0, le=36_500)


def _check_stun_server(value: str) -> str:
    if value and not re.fullmatch(r"[A-Za-z0-9.-]{1,253}:[0-9]{1,5}", value):
        raise ValueError('write it as "host:port", such as "stun.example.com:3478"')
    return value


class WebRtc(Section):
    """Browsers that call by POST /v1/webrtc/offer.

    max_calls    at a time; 0 for none
    codecs       that may be used, the preferred one first
    addresses    at which browsers reach this machine; without any, all that it has but loopback
    ports        of those addresses; "" for whatever port is free
    advertise    the public IP address behind which `addresses` are, with the same ports; rtp.advertise or sip.advertise
                 when empty
    stun_server  that tells what a NAT makes of this machine's addresses; "" for none
    """

    max_calls: int = Field(default=50, ge=0, le=1000)
    codecs: tuple[Literal["PCMU", "opus"], ...] = Field(default=("PCMU", "opus"), min_length=1)
    addresses: tuple[Annotated[str, AfterValidator(lambda value: str(ipaddress.ip_address(value)))], ...] = ()
    ports: PortRange | None = None
    advertise: AdvertisedHost = ""
    stun_server: Annotated[str, AfterValidator(_check_stun_server)] = ""

    @property
    def stun(self) -> tuple[str, int] | None:
        host, colon, port = self.stun_server.rpartition(":")
        return (host, int(port)) if colon else None


def _check_engine_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError('write it as "http://host:port"')
    return value


class Engine(Section):
    """`voice` is what "default" means, "" leaves that to the engine; `workers` are processes, 0 for one per core.

    urls, token    "remote": where it is, and the token that it asks for, of the role `speak`
    first_ms       "remote": until its first sample; then the next one is tried
    fallback       an engine that speaks where this one cannot

    "auto" is "chatterbox" where a GPU and the files of the model are there, and "espeak" elsewhere.

    Of "chatterbox":

    model              the directory with the files of a published model
    chatterbox_model   which one it is
    mode               how speech is streamed: see docs/ARCHITECTURE.md
    device             "cpu", "cuda", "cuda:1"; "" takes a GPU if there is one
    streams            texts at a time, beyond which callers are refused; 0 has it measured at the start
    threads            of a CPU; 0 for one per core
    """

    name: Literal["auto", "chatterbox", "espeak", "remote", "tone"] = "espeak"
    voice: str = ""
    urls: tuple[Annotated[str, AfterValidator(_check_engine_url)], ...] = ()
    token: SecretStr | None = None
    first_ms: int = Field(default=2000, ge=100, le=60_000)
    fallback: Literal["", "espeak", "tone"] = ""
    model: Path | None = None
    chatterbox_model: Literal["turbo", "nano", "original", "multilingual", "tiny", "tiny-original"] = "turbo"
    mode: Literal["exact", "isolated", "causal"] = "isolated"
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)?$")] = ""
    streams: int = Field(default=0, ge=0, le=1024)
    threads: int = Field(default=0, ge=0, le=256)
    workers: int = Field(default=0, ge=0, le=64)
    chatterbox_cfg_scale: float | None = Field(default=None, ge=0, le=2)

    @model_validator(mode="after")
    def _has_what_it_takes(self) -> Self:
        if (self.name == "remote") != bool(self.urls):
            raise ValueError('urls go with the name "remote", and it with them: urls = ["http://10.0.0.21:8080"]')
        if self.name != "auto" and (self.name == "chatterbox") != (self.model is not None):
            raise ValueError(
                'model goes with the name "chatterbox", and it with a model: model = "/srv/chatterbox-turbo"'
            )
        if self.fallback == self.name:
            raise ValueError("fallback should be another engine")
        return self


class Fetch(Section):
    """What a caller may make this server fetch for `play=http...`: nothing, unless a host is listed.

    allow_networks  that are not public, and to which the names of listed hosts may lead all the same
    """

    allow_hosts: tuple[Annotated[str, AfterValidator(str.lower)], ...] = ()
    allow_networks: tuple[Network, ...] = ()
    timeout_s: float = Field(default=5, gt=0, le=60)
    max_bytes: int = Field(default=10 * 1024 * 1024, ge=1024)
    max_audio_s: float = Field(default=600, gt=0)


def _check_webhook_url(value: SecretStr) -> SecretStr:
    parts = urlsplit(value.get_secret_value())
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
        raise ValueError('write it as "https://host/path"')
    if parts.username is not None or parts.password is not None:
        raise ValueError("leave user and password out: messages are signed instead")
    return value


def _check_webhook_secret(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        signature.key_of(value.get_secret_value())
    return value


def _check_event_pattern(value: str) -> str:
    if not any(fnmatchcase(kind, value) for kind in http_api.EVENT_KINDS):
        raise ValueError(f"there is no such event; there are {', '.join(http_api.EVENT_KINDS)}, and * for any part")
    return value


# What leads to a webhook may tell who may ask it, so it is treated as a secret.
WebhookUrl = Annotated[SecretStr, AfterValidator(_check_webhook_url)]
WebhookSecret = Annotated[SecretStr | None, AfterValidator(_check_webhook_secret)]


class Signed(Section):
    """Something that is signed with `secret`, or with each line of `secret_file`: an old secret and a new one, say."""

    secret: WebhookSecret = None
    secret_file: Path | None = None

    @model_validator(mode="after")
    def _has_one_source(self) -> Signed:
        if self.secret is not None and self.secret_file is not None:
            raise ValueError("give one of secret and secret_file")
        return self

    def keys(self) -> tuple[bytes, ...]:
        """The keys to sign with; secret_file is read. Raises ConfigError."""
        if self.secret is not None:
            return (signature.key_of(self.secret.get_secret_value()),)
        if self.secret_file is None:
            return ()
        try:
            keys = tuple(map(signature.key_of, self.secret_file.read_text(encoding="utf-8").split()))
        except OSError as error:
            raise ConfigError(f"secret_file: {self.secret_file}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ConfigError(f"secret_file: {self.secret_file}: {error}") from error
        if not keys:
            raise ConfigError(f"secret_file: {self.secret_file}: there is no secret in it")
        return keys


class Webhook(Signed):
    """One who is told what happens to calls.

    events     kinds of events, with * for any part
    timeout_s  for one attempt; keep_s: after which an event is given up; max_bytes: of all that wait
    """

    name: Name
    url: WebhookUrl
    events: tuple[Annotated[str, AfterValidator(_check_event_pattern)], ...] = Field(default=("*",), min_length=1)
    timeout_s: float = Field(default=10, gt=0, le=60)
    keep_s: float = Field(default=3600, gt=0, le=7 * 86_400)
    max_bytes: int = Field(default=16 * 1024 * 1024, ge=65_536)

    @model_validator(mode="after")
    def _is_signed(self) -> Webhook:
        if self.secret is None and self.secret_file is None:
            raise ValueError("give secret or secret_file: whoever is told has to know that it is true")
        return self

    def wants(self, kind: str) -> bool:
        """Whether it is to be told of events of this kind."""
        return any(fnmatchcase(kind, pattern) for pattern in self.events)


def _check_header_pattern(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.!%_`'~+*-]+", value):
        raise ValueError('write the name of a header field, such as "Subject", or "X-*"')
    return value


class Webhooks(Signed):
    """Where webhooks may be: those of the configuration, and what the API and webhooks themselves may name.

    allow_networks  that are not public, and to which the names of hosts may lead all the same
    secret          signs what those are told that conduct calls; or secret_file
    headers         of an INVITE that they are told; * for any part
    """

    allow_hosts: tuple[Annotated[str, AfterValidator(str.lower)], ...] = ()
    allow_networks: tuple[Network, ...] = ()
    headers: tuple[Annotated[str, AfterValidator(_check_header_pattern)], ...] = ()


class Store(Section):
    """Where speakers are kept; the default is below the home directory: see `directory`."""

    path: Path | None = None

    def directory(self, environ: Mapping[str, str]) -> Path:
        """`path`, or what systemd grants (systemd.exec(5), StateDirectory=), or what the XDG base directories say.

        Raises ConfigError when there is neither of them, nor a home.
        """
        if self.path is not None:
            return self.path
        if granted := environ.get("STATE_DIRECTORY"):
            return Path(granted.partition(":")[0])
        # XDG Base Directory Specification 0.8: what should outlive a restart and is not important enough for data.
        state = environ.get("XDG_STATE_HOME", "")
        if Path(state).is_absolute():
            return Path(state) / "mediaserver"
        try:
            return Path.home() / ".local" / "state" / "mediaserver"
        except RuntimeError as error:
            raise ConfigError("store.path: name a directory, for there is no home directory to put it in") from error


class Speakers(Section):
    """What a recording may be that somebody is enrolled with, and how many may be."""

    min_s: float = Field(default=3, ge=1, le=60)
    max_s: float = Field(default=60, ge=3, le=600)
    max_bytes: int = Field(default=10 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024)
    max_speakers: int = Field(default=1000, ge=1)


class Cache(Section):
    """How much speech is kept once it was made; 0 for none in that place, and none at all if the first two are 0.

    By default nothing that was spoken outlives the server, since nobody knows what callers are told.
    """

    memory_mb: int = Field(default=64, ge=0, le=65_536)
    disk_mb: int = Field(default=0, ge=0, le=1_048_576)
    redis_ttl_s: int = Field(default=0, ge=0, le=30 * 86_400)


class Log(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class Hep(Section):
    """Where a copy of every SIP message goes, texts included: HEPv3 over UDP. `node` tells servers from one another."""

    collector: ListenAddress | None = None
    node: int = Field(default=1, ge=0, le=2**32 - 1)


def _check_trace_endpoint(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError('write it as "http://host:4318"')
    return value


class Trace(Section):
    """Where a trace of each call goes when it has ended: OTLP over HTTP, with the extra `otel`.

    headers  of its requests, which may be secret; ratio: of the calls, unless whoever orders one has decided
    parties  whether who called whom stands there; those are telephone numbers
    """

    endpoint: Annotated[str, AfterValidator(_check_trace_endpoint)] | None = None
    headers: Mapping[str, SecretStr] = {}
    ratio: float = Field(default=1, ge=0, le=1)
    parties: bool = False


def _check_redis_url(value: SecretStr) -> SecretStr:
    parts = urlsplit(value.get_secret_value())
    if parts.scheme not in ("redis", "rediss", "unix") or not (parts.hostname or parts.path):
        raise ValueError('write it as "redis://[:password@]host[:port][/database]", or rediss:// for TLS')
    return value


class Redis(Section):
    url: Annotated[SecretStr, AfterValidator(_check_redis_url)] | None = None


class Then(Enum):
    """What a call does once all is said."""

    HANGUP = "hangup"
    STAY = "stay"


class Route(Section):
    """One rule of what a call says. An absent condition matches every call.

    user     user part of the Request-URI; from: user part of From; each an exact value or a /regular expression/
    network  network that the caller's signalling comes from, such as "10.0.0.0/8"
    say      text, or ssml: a document, or play: an audio file; {from} and {to} are filled in
    repeat   how often, with delay_ms of silence in between
    webhook  is asked what the call is to do; what is to be said, is said if it has no answer within webhook_timeout_ms
    record   whether the call is recorded, from its answer to its end: see [recordings]
    """

    user: Pattern | None = None
    from_: Pattern | None = Field(default=None, alias="from")
    network: Network | None = None
    say: Template | None = None
    ssml: Template | None = None
    play: Path | None = None
    voice: str = "default"
    language: str = ""
    repeat: int = Field(default=1, ge=1, le=1000)
    delay_ms: int = Field(default=0, ge=0, le=3_600_000)
    then: Then = Then.HANGUP
    stay_s: float = Field(default=3600, gt=0, le=86_400)
    webhook: WebhookUrl | None = None
    webhook_timeout_ms: int = Field(default=3000, ge=100, le=30_000)
    record: bool = False

    @model_validator(mode="after")
    def _says_one_thing(self) -> Route:
        words = sum(value is not None for value in (self.say, self.ssml, self.play))
        if words > 1 or not (words or self.webhook):
            raise ValueError("give exactly one of say, ssml and play, or webhook, and one of them for when it fails")
        return self

    def matches(self, *, user: str, caller: str, source: str) -> bool:
        """Whether a call to `user` from `caller`, whose signalling comes from the address `source`, is meant."""
        return (
            _fits(self.user, user)
            and _fits(self.from_, caller)
            and (self.network is None or ipaddress.ip_address(source) in self.network)
        )


def _fits(pattern: str | None, value: str) -> bool:
    if pattern is None:
        return True
    if len(pattern) > 1 and pattern.startswith("/") and pattern.endswith("/"):
        return re.fullmatch(pattern[1:-1], value) is not None
    return pattern == value


DEFAULT_ROUTE = Route(
    say="Hello! You have reached the media server. It is up, and it can speak. The line stays open for thirty seconds.",
    then=Then.STAY,
    stay_s=30,
)


class Config(Section):
    """Everything that can be set; every default works on a machine with nothing but a clone."""

    sip: Sip = Sip()
    http: Http = Http()
    rtp: Rtp = Rtp()
    calls: Calls = Calls()
    recordings: Recordings = Recordings()
    webrtc: WebRtc = WebRtc()
    engine: Engine = Engine()
    fetch: Fetch = Fetch()
    webhooks: Webhooks = Webhooks()
    store: Store = Store()
    speakers: Speakers = Speakers()
    cache: Cache = Cache()
    log: Log = Log()
    hep: Hep = Hep()
    trace: Trace = Trace()
    redis: Redis = Redis()
    trunk: tuple[Trunk, ...] = ()
    user: tuple[User, ...] = ()
    token: tuple[Token, ...] = ()
    webhook: tuple[Webhook, ...] = ()
    route: tuple[Route, ...] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Config:
        for kind, names in (
            ("trunk", [one.name for one in self.trunk]),
            ("user", [one.name for one in self.user]),
            ("token", [one.name for one in self.token]),
            ("webhook", [one.name for one in self.webhook]),
        ):
            if twice := {name for name in names if names.count(name) > 1}:
                raise ValueError(f"{kind}: two are named {min(twice)}")
        return self

    @model_validator(mode="after")
    def _records_where_that_is_allowed(self) -> Config:
        for number, route in enumerate(self.route):
            if route.record and not self.recordings.enabled:
                raise ValueError(f"route.{number}.record: set recordings.enabled = true, or leave it out")
        return self

    @model_validator(mode="after")
    def _lets_nobody_in_by_oversight(self) -> Config:
        web = self.http
        alone = ipaddress.ip_address(web.listen.host).is_loopback
        if not (alone or self.token or web.token_file or web.allow_unauthenticated):
            raise ValueError(
                f"http.listen: whoever reaches {web.listen} could place calls and enrol voices: add a [[token]] or "
                "http.token_file, or listen on 127.0.0.1, or set http.allow_unauthenticated = true if everybody on "
                "that network is to be trusted"
            )
        return self

    def bearers(self) -> tuple[http_api.Token, ...]:
        """The tokens of here and of http.token_file, which is read. Raises ConfigError."""
        tokens = list(self.token)
        if self.http.token_file is not None:
            tokens += _checked(TokenFile, _read(self.http.token_file), str(self.http.token_file)).token
        bearers = tuple(token.bearer for token in tokens)
        for what, values in (("name", [one.name for one in bearers]), ("secret", [one.sha256 for one in bearers])):
            for number, value in enumerate(values):
                if value in values[:number]:
                    raise ConfigError(f"token: two have the {what} of {bearers[number].name}")
        return bearers

    def route_for(self, *, user: str, caller: str, source: str) -> Route:
        """The first matching route, or the one that greets and stays for 30 s."""
        for route in self.route:
            if route.matches(user=user, caller=caller, source=source):
                return route
        return DEFAULT_ROUTE


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Read `path` (None: defaults), put the environment on top, check. Raises ConfigError."""
    data: dict[str, Any] = {}
    if path is not None:
        data = _read(path)
    for key, value, variable in _overrides(environ):
        _put(data, key.split("."), value, variable)
    return _checked(Config, data, str(path) if path is not None else "configuration")


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def _checked(model: type[Model], data: Mapping[str, Any], where: str) -> Model:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{where}: {line}" for line in _explain(error))) from error


def _overrides(environ: Mapping[str, str]) -> list[tuple[str, object, str]]:
    found: list[tuple[str, object, str]] = [
        (key, environ[variable].lower() if key == "log.level" else environ[variable], variable)
        for variable, key in CUSTOMARY_VARIABLES.items()
        if environ.get(variable)
    ]
    for variable, text in environ.items():
        if variable.startswith(PREFIX):
            key = variable.removeprefix(PREFIX).lower().replace("__", ".")
            found.append((key, _value(text, variable), variable))
    return found


def _value(text: str, variable: str) -> object:
    """Lists and tables are written as JSON; everything else is the text itself, which pydantic converts."""
    if not text.startswith(("[", "{")) or re.match(r"\[[0-9a-fA-F:.%]+\]:\d+$", text):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{variable}: lists and tables are written as JSON: {error}") from error


def _put(data: dict[str, Any], path: list[str], value: object, variable: str) -> None:
    for name in path[:-1]:
        data = data.setdefault(name, {})
        if not isinstance(data, dict):
            raise ConfigError(f"{variable}: {name} is not a table")
    data[path[-1]] = value


def _explain(error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        key = ".".join(str(part) for part in problem["loc"] if not UNION_MEMBER.match(str(part)))
        message = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"]
        said = message.removeprefix("Value error, ")
        lines.append(f"{key}: {said}" if key else said)
    return lines
