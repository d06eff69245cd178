"""The configuration: defaults that work, every mistake named with its key, the environment on top of the file."""

from __future__ import annotations

import hashlib
import ipaddress
from pathlib import Path
from typing import get_args

import pytest

import http_api
from mediaserver import config

REFERENCE = Path(__file__).parents[1] / "deploy" / "mediaserver.toml"


def load(text: str = "", tmp_path: Path | None = None, **environ: str) -> config.Config:
    if tmp_path is None:
        assert not text
        return config.load(None, environ)
    file = tmp_path / "test.toml"
    file.write_text(text, encoding="utf-8")
    return config.load(file, environ)


def test_the_defaults_need_no_file() -> None:
    settings = load()
    assert str(settings.sip.listen[0]) == "0.0.0.0:5060"
    assert str(settings.http.listen) == "127.0.0.1:8080"
    assert settings.rtp.ports == range(20000, 30000)
    assert settings.engine.name == "espeak"


def test_the_reference_file_loads_and_shows_the_defaults() -> None:
    reference = config.load(REFERENCE, {})
    assert reference.model_copy(update={"route": ()}) == config.load(None, {})
    assert [route.then for route in reference.route] == [config.Then.STAY, config.Then.HANGUP]


def test_the_reference_file_names_every_key() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    for section, field in config.Config.model_fields.items():
        tables = {
            "route": config.Route,
            "trunk": config.Trunk,
            "user": config.User,
            "token": config.Token,
            "webhook": config.Webhook,
        }
        model = tables.get(section, field.annotation)
        names = [f.alias or n for n, f in model.model_fields.items()]  # type: ignore[union-attr]
        for name in names:
            if name != "chatterbox_cfg_scale":  # set by its customary variable; its engine is not there yet
                assert f"\n{name} = " in text or f"\n# {name} = " in text, f"{section}.{name}"


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    settings = load(
        '[sip]\nlisten = "127.0.0.1:5070"\nmax_calls = 5',
        tmp_path,
        MEDIASERVER_SIP__LISTEN="[::1]:5080",
        MEDIASERVER_RTP__PORTS="30000-30099",
        MEDIASERVER_FETCH__ALLOW_HOSTS='["a.example"]',
        LOG_LEVEL="DEBUG",
        REDIS_URL="redis://:hunter2@cache:6379/0",
        CHATTERBOX_CFG_SCALE="0.4",
    )
    assert (settings.sip.listen[0].host, settings.sip.listen[0].port, settings.sip.max_calls) == ("::1", 5080, 5)
    assert settings.rtp.ports == range(30000, 30100)
    assert settings.fetch.allow_hosts == ("a.example",)
    assert (settings.log.level, settings.engine.chatterbox_cfg_scale) == ("debug", 0.4)
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[sip]\nlisten = 5060", "sip.listen: "),
        ("[sip]\nlisten = []", "sip.listen: "),
        ('[sip]\nlisten = ["1.2.3.4:1", "1.2.3.4:1"]', "sip.listen: it names an address twice"),
        ('[sip]\nlisten = "example.com:5060"', "sip.listen: 'example.com' is not an IP address"),
        ('[sip]\nlisten = "1.2.3.4"', 'sip.listen: write it as "host:port"'),
        ('[sip]\nlisten = "1.2.3.4:70000"', "sip.listen.0.port: "),
        ('[sip]\ntls_listen = "0.0.0.0:5061"', "sip: tls_listen takes tls_certificate"),
        ('[sip]\ntls_key = "key.pem"', "sip: tls_key takes tls_certificate"),
        ('[http]\ntls_key = "key.pem"', "http: tls_key takes tls_certificate"),
        ("[sip]\nmin_se_s = 89", "sip.min_se_s: "),
        ("[sip]\nmin_se_s = 2000", "sip: session_expires_s is 0 (no timer of our own) or at least min_se_s"),
        ("[sip]\nlissten = 1", "sip.lissten: unknown key"),
        ("[sup]\nlisten = 1", "sup: unknown key"),
        ('[rtp]\nports = "9-1"', "rtp.ports: the range must run upwards"),
        ("[rtp]\nstart_ms = 901", "rtp: ring_ms must be at least start_ms + 100, that is 1001"),
        ('[engine]\nname = "festival"', "engine.name: "),
        ('[[route]]\nsay = "{name}"', "route.0.say: unknown field {name}"),
        ('[[route]]\nsay = "{from.__class__}"', "route.0.say: unknown field {from.__class__}"),
        ('[[route]]\nsay = "{"', "route.0.say: not a template"),
        ('[[route]]\nuser = "1"', "route.0: give exactly one of say, ssml and play"),
        ('[[route]]\nsay = "a"\nplay = "b.wav"', "route.0: give exactly one of say, ssml and play"),
        ('[[route]]\nuser = "/(/"\nsay = "a"', "route.0.user: not a regular expression"),
        ('[[route]]\nnetwork = "10.0.0.1/8"\nsay = "a"', "route.0.network: "),
        ('[[route]]\nsay = "a"\nthen = "jump"', "route.0.then: "),
        ("[sip", "not TOML"),
    ],
)
def test_a_mistake_is_named_with_its_key(text: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError) as caught:
        load(text, tmp_path)
    assert complaint in str(caught.value)
    assert "test.toml" in str(caught.value)


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError) as caught:
        load("[sip]\nmax_calls = 0\n[http]\nmax_concurrent = 0", tmp_path)
    assert str(caught.value).count("\n") == 1


def test_an_unknown_variable_is_an_error() -> None:
    with pytest.raises(config.ConfigError, match=r"sip\.listne: unknown key"):
        load(MEDIASERVER_SIP__LISTNE="0.0.0.0:5060")


def test_a_missing_file_is_an_error() -> None:
    with pytest.raises(config.ConfigError, match="cannot be read"):
        config.load(Path("/nonexistent/mediaserver.toml"), {})


def test_the_first_matching_route_is_taken() -> None:
    settings = config.Config(
        route=(
            config.Route(user="100", say="a"),
            config.Route(user=r"/2\d\d/", say="b"),
            config.Route.model_validate({"from": "alice", "say": "c"}),
            config.Route(network=ipaddress.ip_network("10.0.0.0/8"), say="d"),
        )
    )

    def said(user: str, caller: str = "bob", source: str = "192.0.2.1") -> str | None:
        return settings.route_for(user=user, caller=caller, source=source).say

    assert said("100", "alice", "10.1.1.1") == "a"
    assert said("234") == "b"
    assert said("2345") == config.DEFAULT_ROUTE.say, "an expression must match as a whole"
    assert said("1", "alice") == "c"
    assert said("1", source="10.255.0.1") == "d"
    assert said("1", source="::1") == config.DEFAULT_ROUTE.say


TOKEN = '[[token]]\nname = "app"\ntoken = "0123456789abcdef"\nroles = ["speak"]\n'
HASH = hashlib.sha256(b"0123456789abcdef").hexdigest()


def test_a_token_is_given_or_its_hash_is(tmp_path: Path) -> None:
    (given,) = load(TOKEN, tmp_path).bearers()
    (hashed,) = load(TOKEN.replace('token = "0123456789abcdef"', f'sha256 = "{HASH.upper()}"'), tmp_path).bearers()
    assert given == hashed
    assert (given.name, given.sha256.hex(), given.roles) == ("app", HASH, {"speak"})
    assert (given.requests_per_s, given.max_speech) == (0, 0)
    assert "0123456789abcdef" not in repr(load(TOKEN, tmp_path))


def test_every_role_can_be_given() -> None:
    assert set(get_args(get_args(config.Token.model_fields["roles"].annotation)[0])) == http_api.ROLES.keys()


def test_tokens_come_from_the_environment_and_from_a_file_of_their_own_too(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(TOKEN)
    settings = load(
        MEDIASERVER_HTTP__TOKEN_FILE=str(file),
        MEDIASERVER_TOKEN='[{"name": "a", "token": "fedcba9876543210", "roles": ["read", "call"]}]',
    )
    assert [(one.name, one.roles) for one in settings.bearers()] == [("a", {"read", "call"}), ("app", {"speak"})]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "token: Field required"),
        ("token = []", "token: "),
        ("[token", "not TOML"),
        (TOKEN.replace("app", "a b"), "token.0.name: "),
        (TOKEN.replace("app", "main"), "token: two have the name of main"),
        (TOKEN.replace("0123456789abcdef", "main-0123456789abcdef"), "token: two have the secret of app"),
        (TOKEN + "[http]\n", "http: unknown key"),
    ],
)
def test_a_token_file_that_cannot_be_used_says_why(text: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(text)
    settings = config.Config.model_validate(
        {
            "http": {"token_file": file},
            "token": [{"name": "main", "token": "main-0123456789abcdef", "roles": ["admin"]}],
        }
    )
    with pytest.raises(config.ConfigError) as caught:
        settings.bearers()
    assert complaint in str(caught.value)
    assert "0123456789abcdef" not in str(caught.value)


def test_a_token_file_that_is_not_there_says_so() -> None:
    with pytest.raises(config.ConfigError, match=r"/nonexistent/t.toml: cannot be read"):
        load(MEDIASERVER_HTTP__TOKEN_FILE="/nonexistent/t.toml").bearers()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (TOKEN * 2, "token: two are named app"),
        (TOKEN.replace("0123456789abcdef", "short"), "token.0.token: at least 16 letters"),
        (TOKEN.replace("0123456789abcdef", "with a space in its middle"), "token.0.token: at least 16 letters"),
        (TOKEN.replace("0123456789abcdef", "0123456789abcdef\\r\\nX: y"), "token.0.token: at least 16 letters"),
        (TOKEN.replace("0123456789abcdef", "a" * 513), "token.0.token: at least 16 letters"),
        (TOKEN + f'sha256 = "{HASH}"', "token.0: give exactly one of token and sha256"),
        (TOKEN.replace("token = ", "#"), "token.0: give exactly one of token and sha256"),
        (TOKEN.replace("token = ", "sha256 = "), "token.0.sha256: "),
        (TOKEN.replace('"speak"', ""), "token.0.roles: "),
        (TOKEN.replace("speak", "root"), "token.0.roles.0: "),
        (TOKEN + "requests_per_s = -1", "token.0.requests_per_s: "),
        ('[http]\ncors_origins = ["*"]', "http.cors_origins.0: write it as browsers do"),
        ('[http]\ncors_origins = ["https://a.example/"]', "http.cors_origins.0: write it as browsers do"),
        ('[http]\ncors_origins = ["a.example"]', "http.cors_origins.0: write it as browsers do"),
        ('[http]\ncors_origins = ["null"]', "http.cors_origins.0: write it as browsers do"),
        ('[http]\nlisten = "0.0.0.0:8080"', "http.listen: whoever reaches 0.0.0.0:8080 could place calls"),
        ('[http]\nlisten = "[::]:8080"', "http.listen: whoever reaches [::]:8080 could place calls"),
    ],
)
def test_access_that_cannot_be_meant_is_named(text: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError) as caught:
        load(text, tmp_path)
    assert f"test.toml: {complaint}" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        '[http]\nlisten = "127.0.0.1:8080"',
        '[http]\nlisten = "127.5.5.5:8080"',
        '[http]\nlisten = "[::1]:8080"',
        '[http]\nlisten = "localhost:8080"',
        '[http]\nlisten = "0.0.0.0:8080"\nallow_unauthenticated = true',
        '[http]\nlisten = "0.0.0.0:8080"\ntoken_file = "tokens.toml"',
        TOKEN + '[http]\nlisten = "0.0.0.0:8080"',
    ],
)
def test_http_is_open_to_this_machine_to_tokens_or_by_decision(text: str, tmp_path: Path) -> None:
    assert load(text, tmp_path).http.listen.port == 8080


TRUNK = '[[trunk]]\nname = "office"\ntargets = ["192.0.2.1:5080;transport=tcp", "pbx.example.com"]\n'


def test_a_trunk_needs_a_name_and_a_target(tmp_path: Path) -> None:
    (trunk,) = load(TRUNK + 'username = "1000"\npassword = "hunter2"\nregister = true', tmp_path).trunk
    assert [str(uri) for uri in trunk.uris] == ["sip:192.0.2.1:5080;transport=tcp", "sip:pbx.example.com"]
    assert (str(trunk.registrar), trunk.register_, trunk.expires_s, trunk.probe_s) == ("sip:192.0.2.1", True, 3600, 30)
    assert trunk.login is not None
    assert (trunk.login.username, trunk.login.password) == ("1000", "hunter2")
    assert "hunter2" not in repr(trunk) + repr(trunk.login)
    assert load(TRUNK, tmp_path).trunk[0].login is None


def test_trunks_come_from_the_environment_too() -> None:
    settings = load(MEDIASERVER_TRUNK='[{"name": "office", "targets": ["192.0.2.1"], "domain": "example.com"}]')
    assert str(settings.trunk[0].registrar) == "sip:example.com"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (TRUNK + TRUNK, "trunk: two are named office"),
        ('[[user]]\nname = "a"\npassword = "x"\n' * 2, "user: two are named a"),
        ('[[trunk]]\nname = "a"\ntargets = []', "trunk.0.targets: "),
        ('[[trunk]]\nname = "a b"\ntargets = ["192.0.2.1"]', "trunk.0.name: "),
        ('[[trunk]]\nname = "a"\ntargets = ["sip:192.0.2.1"]', "trunk.0.targets.0: write it as"),
        ('[[trunk]]\nname = "a"\ntargets = ["me@192.0.2.1"]', "trunk.0.targets.0: write it as"),
        ('[[trunk]]\nname = "a"\ntargets = ["192.0.2.1;transport=sctp"]', "trunk.0.targets.0: write it as"),
        (TRUNK + "register = true", "trunk.0: register needs a username"),
        (TRUNK + 'password = "x"', "trunk.0: password needs a username"),
        (TRUNK + 'inbound_username = "x"', "trunk.0: inbound_username and inbound_password go together"),
        (TRUNK + "probe_s = 1", "trunk.0: probe_s must be 0 or at least 5"),
        (TRUNK + 'codecs = ["PCMU", "PCMU"]', "trunk.0: codecs names one twice"),
        (TRUNK + 'codecs = ["G729"]', "trunk.0.codecs.0: "),
        (TRUNK + 'domain = "example.com:5061"', "trunk.0.domain: write a name or an address"),
        (TRUNK + 'domain = "a b"', "trunk.0.domain: write a name or an address"),
        (TRUNK + "expires_s = 10", "trunk.0.expires_s: "),
        (TRUNK + 'networks = ["192.0.2.1/24"]', "trunk.0.networks.0: "),
        (TRUNK + "colour = 1", "trunk.0.colour: unknown key"),
    ],
)
def test_a_trunk_that_cannot_be_used_is_named(text: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError) as caught:
        load(text, tmp_path)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("listen", "tls_listen", "host"),
    [
        ("10.0.0.1:5060", [], "10.0.0.1"),
        (["10.0.0.1:5060", "10.0.0.1:5070"], ["10.0.0.1:5061"], "10.0.0.1"),
        (["10.0.0.1:5060", "10.0.0.2:5060"], [], "0.0.0.0"),
        (["0.0.0.0:5060", "[::]:5060"], [], "::"),
        ("10.0.0.1:5060", "[::]:5061", "::"),
    ],
)
def test_media_are_bound_where_every_peer_can_reach_them(listen: object, tls_listen: object, host: str) -> None:
    sip = {"listen": listen, "tls_listen": tls_listen, "tls_certificate": "x"}
    assert config.Config.model_validate({"sip": sip}).sip.media_host == host


def test_the_advertised_address_has_the_port_of_its_family() -> None:
    for advertise, port in (("203.0.113.5", 5060), ("2001:db8::5", 5070)):
        sip = {"listen": ["[::]:5070", "0.0.0.0:5060"], "advertise": advertise}
        assert config.Config.model_validate({"sip": sip}).sip.advertised == (advertise, port)
    assert config.Config().sip.advertised is None


def test_a_stun_server_is_a_host_and_a_port() -> None:
    assert config.WebRtc().stun is None
    assert config.WebRtc(stun_server="stun.example.com:3478").stun == ("stun.example.com", 3478)
    with pytest.raises(ValueError, match="host:port"):
        config.WebRtc(stun_server="stun:stun.example.com")


def test_what_browsers_are_told_of_addresses_is_checked() -> None:
    made = config.Config.model_validate({"webrtc": {"addresses": ["192.0.2.1", "2001:db8::1"], "ports": "40000-40099"}})
    assert made.webrtc.addresses == ("192.0.2.1", "2001:db8::1")
    assert made.webrtc.ports == range(40000, 40100)
    with pytest.raises(ValueError, match="not appear to be an IPv4 or IPv6 address"):
        config.WebRtc(addresses=("here",))
    with pytest.raises(ValueError, match="first-last"):
        config.WebRtc.model_validate({"ports": "40000"})
