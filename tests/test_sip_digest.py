"""Digest authentication: RFC 3261 section 22, RFC 7616, RFC 8760."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sip.digest import ALGORITHMS, Challenge, Credentials, Keyring, Login, Realm, Space, WrongProof, topmost
from sip.errors import LocalProtocolError, RemoteProtocolError
from sip.headers import Headers
from sip.message import Request, Response
from sip.uri import Uri

SECRET = bytes(range(32))
PASSWORDS = {"alice": "wonderland", "bob": "builder"}


# --- the one who proves


@pytest.mark.conformance("RFC 7616", "3.4.1", "the response is the hash of A1, nonce, nc, cnonce, qop and A2")
@pytest.mark.conformance("RFC 7616", "3.9.1", "the examples in MD5 and SHA-256 come out")
@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_the_examples_of_rfc_7616(algorithm: str, response: str) -> None:
    """Section 3.9.1."""
    challenge = Challenge.parse(
        'Digest realm="http-auth@example.org", qop="auth, auth-int", '
        f'algorithm={algorithm}, nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", '
        'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
    )
    credentials = challenge.credentials(
        username="Mufasa",
        password="Circle of Life",
        method="GET",
        uri="/dir/index.html",
        cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
    )
    assert credentials.response == response
    assert str(credentials) == (
        'Digest username="Mufasa", realm="http-auth@example.org", '
        'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", uri="/dir/index.html", '
        f'response="{response}", algorithm={algorithm}, qop=auth, nc=00000001, '
        'cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
    )


@pytest.mark.conformance("RFC 2617", "3.5", "the example comes out")
def test_the_example_of_rfc_2617() -> None:
    """Section 3.5, with the nonce used twice."""
    challenge = Challenge(realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", qop=("auth",))
    credentials = challenge.credentials(
        username="Mufasa", password="Circle Of Life", method="GET", uri="/dir/index.html", cnonce="0a4f113b"
    )
    assert credentials.response == "6629fae49393a05397450978507c4ef1"
    assert "algorithm" not in str(credentials)
    again = challenge.credentials(
        username="Mufasa",
        password="Circle Of Life",
        method="GET",
        uri="/dir/index.html",
        cnonce="0a4f113b",
        nonce_count=2,
    )
    assert "nc=00000002" in str(again)
    assert again.response != credentials.response


def digest_of(*items: str, algorithm: str = "md5") -> str:
    return hashlib.new(algorithm, ":".join(items).encode()).hexdigest()


@pytest.mark.conformance("RFC 3261", "22.4", "without qop the response is that of RFC 2069")
def test_without_qop_the_old_form_is_used() -> None:
    """RFC 3261 section 22.4, rule 8, and RFC 2069."""
    credentials = Challenge(realm="r", nonce="n").credentials(
        username="u", password="p", method="REGISTER", uri="sip:r", cnonce="c"
    )
    assert credentials.response == digest_of(digest_of("u", "r", "p"), "n", digest_of("REGISTER", "sip:r"))
    assert "cnonce" not in str(credentials)
    assert "nc=" not in str(credentials)


@pytest.mark.conformance("RFC 7616", "3.4.3", "auth-int covers the body")
def test_auth_int_covers_the_body_and_is_used_only_where_auth_is_not_offered() -> None:
    challenge = Challenge(realm="r", nonce="n", qop=("auth-int",))
    credentials = challenge.credentials(username="u", password="p", method="M", uri="sip:r", cnonce="c", body=b"body")
    asked = digest_of("M", "sip:r", digest_of("body"))
    assert credentials.response == digest_of(digest_of("u", "r", "p"), "n", "00000001", "c", "auth-int", asked)
    both = replace(challenge, qop=("auth-int", "auth"))
    assert both.credentials(username="u", password="p", method="M", uri="sip:r", cnonce="c").qop == "auth"


@pytest.mark.conformance("RFC 7616", "3.4.2", "A1 of an algorithm with -sess has the nonces in it")
def test_a_session_algorithm_mixes_the_nonces_into_the_secret() -> None:
    challenge = Challenge(realm="r", nonce="n", algorithm="MD5-sess", qop=("auth",))
    credentials = challenge.credentials(username="u", password="p", method="M", uri="sip:r", cnonce="c")
    secret = digest_of(digest_of("u", "r", "p"), "n", "c")
    assert credentials.response == digest_of(secret, "n", "00000001", "c", "auth", digest_of("M", "sip:r"))


@pytest.mark.conformance("RFC 8760", "2.1", "SHA-512-256 is supported beside MD5 and SHA-256")
def test_sha_512_256_is_that_of_fips_180() -> None:
    credentials = Challenge(realm="r", nonce="n", algorithm="SHA-512-256").credentials(
        username="u", password="p", method="M", uri="sip:r", cnonce="c"
    )
    assert len(credentials.response) == 64
    assert credentials.response == digest_of(
        digest_of("u", "r", "p", algorithm="sha512_256"),
        "n",
        digest_of("M", "sip:r", algorithm="sha512_256"),
        algorithm="sha512_256",
    )


@pytest.mark.conformance("RFC 8760", "2.4", "of several challenges the topmost that is supported is answered")
def test_the_topmost_challenge_that_can_be_met_is_taken() -> None:
    """RFC 8760 section 2.4: the server's order is its preference."""
    challenges = (
        'Basic realm="r"',
        'Digest realm="no nonce"',
        'Digest realm="r", nonce="1", algorithm=SHA3-512',
        'Digest realm="r", nonce="2", algorithm=MD5, qop="token"',
        'Digest realm="r", nonce="3", algorithm=sha-256, qop="auth"',
        'Digest realm="r", nonce="4", algorithm=MD5',
    )
    (taken,) = topmost(challenges)
    assert taken.nonce == "3"
    assert topmost(challenges[:4]) == ()


@pytest.mark.conformance("RFC 3261", "22.3", "every realm of several that ask at once is answered")
def test_each_realm_has_a_topmost_challenge_of_its_own() -> None:
    """RFC 3261 section 22.3: a forking proxy gathers the challenges of several."""
    taken = topmost(('Digest realm="a", nonce="1"', 'Digest realm="b", nonce="2"', 'Digest realm="a", nonce="3"'))
    assert [(challenge.realm, challenge.nonce) for challenge in taken] == [("a", "1"), ("b", "2")]


def test_a_challenge_that_cannot_be_met_is_our_fault() -> None:
    with pytest.raises(LocalProtocolError):
        Challenge(realm="r", nonce="n", algorithm="X").credentials(
            username="u", password="p", method="M", uri="sip:r", cnonce="c"
        )


def test_a_challenge_reads_as_it_is_written() -> None:
    challenge = Challenge(
        realm='the "realm"', nonce="n", algorithm="SHA-256", qop=("auth", "auth-int"), opaque="", stale=True
    )
    assert Challenge.parse(str(challenge)) == challenge
    assert Challenge.parse('digest  Realm = "r" ,NONCE="n",stale=TRUE').stale


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Digest",
        "Digest ",
        'Basic realm="r", nonce="n"',
        'Digest realm="r"',
        'Digest nonce="n"',
        'Digest realm="r", nonce="n',
        'Digest realm="r" nonce="n"',
        'Digest realm="r", realm="s", nonce="n"',
        'Digest realm="r", nonce="n", =x',
        'Digest realm="r"; nonce="n"',
    ],
)
def test_a_malformed_challenge_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        Challenge.parse(text)


# --- the keyring of one who proves


INVITE = Uri.parse("sip:bob@example.com")


def refusal(status: int, *challenges: tuple[str, str]) -> Response:
    return Response(status=status, reason="", headers=Headers(challenges))


def answers(keyring: Keyring, method: str = "INVITE") -> list[tuple[str, Credentials]]:
    fields = keyring.fields(method, INVITE, b"", cnonce="c")
    return [(name, Credentials.parse(text)) for name, text in fields]


def test_a_password_is_not_shown() -> None:
    login = Login(username="alice", password="wonderland")
    assert "wonderland" not in repr(login) + repr(Uri.parse("sip:alice:wonderland@example.com"))


@pytest.mark.conformance(
    "RFC 3261", "22.3", "401 is answered by Authorization, 407 by Proxy-Authorization, and both stack"
)
def test_401_and_407_are_answered_in_a_field_of_their_own_and_both_stack() -> None:
    keyring, answered = Keyring(Login(username="alice", password="wonderland")), Counter[Space]()
    assert answers(keyring) == []
    assert keyring.learn(refusal(407, ("Proxy-Authenticate", 'Digest realm="p", nonce="1"')), answered)
    assert keyring.learn(refusal(401, ("WWW-Authenticate", 'Digest realm="r", nonce="2", qop="auth"')), answered)
    assert [(name, c.realm, c.nonce, c.nonce_count) for name, c in answers(keyring)] == [
        ("Proxy-Authorization", "p", "1", 0),
        ("Authorization", "r", "2", 1),
    ]
    # RFC 7616 section 3.4: the next request uses the nonce once more.
    assert [c.nonce_count for _, c in answers(keyring, "BYE")] == [0, 2]


@pytest.mark.conformance(
    "RFC 3261", "22.2", "credentials that were refused are not sent again, but once with a new nonce after stale=true"
)
def test_an_answer_that_is_refused_is_not_repeated_unless_its_nonce_was_stale_and_then_once() -> None:
    fresh = refusal(401, ("WWW-Authenticate", 'Digest realm="r", nonce="1", qop="auth"'))
    stale = refusal(401, ("WWW-Authenticate", 'Digest realm="r", nonce="2", qop="auth", stale=true'))
    for refusals, worth in (([fresh, fresh], [True, False]), ([fresh, stale, stale], [True, True, False])):
        keyring, answered = Keyring(Login(username="alice", password="wonderland")), Counter[Space]()
        assert [keyring.learn(response, answered) for response in refusals] == worth
        assert answers(keyring) == []


def test_a_nonce_that_has_served_may_be_replaced_in_a_later_request() -> None:
    keyring = Keyring(Login(username="alice", password="wonderland"))
    for number in range(3):
        challenge = ("WWW-Authenticate", f'Digest realm="r", nonce="{number}"')
        assert keyring.learn(refusal(401, challenge), Counter())
        assert [c.nonce for _, c in answers(keyring)] == [str(number)]


def test_a_login_of_one_realm_is_not_used_for_another() -> None:
    keyring = Keyring(Login(username="alice", password="wonderland", realm="ours"))
    assert not keyring.learn(refusal(401, ("WWW-Authenticate", 'Digest realm="theirs", nonce="1"')), Counter())
    assert answers(keyring) == []


@pytest.mark.parametrize("text", ['Basic realm="r"', 'Digest realm="r", nonce="1", algorithm=X', "Digest", ""])
def test_what_cannot_be_met_is_not_tried(text: str) -> None:
    keyring = Keyring(Login(username="alice", password="wonderland"))
    assert not keyring.learn(refusal(401, ("WWW-Authenticate", text)), Counter())


def test_realms_without_end_are_not_answered_without_end() -> None:
    keyring, answered = Keyring(Login(username="alice", password="wonderland")), Counter[Space]()
    worth = [
        keyring.learn(refusal(401, ("WWW-Authenticate", f'Digest realm="{number}", nonce="1"')), answered)
        for number in range(6)
    ]
    assert worth == [True] * 4 + [False] * 2
    many = refusal(401, *(("WWW-Authenticate", f'Digest realm="{number}", nonce="1"') for number in range(9)))
    assert not keyring.learn(many, Counter())
    assert len(answers(keyring)) == 4


# --- the one who checks


def realm(**options: float) -> Realm:
    return Realm("example.com", secret=SECRET, **options)  # type: ignore[arg-type]


def request(*authorizations: str, method: str = "INVITE") -> Request:
    headers = Headers(("Authorization", text) for text in authorizations)
    return Request(method=method, uri=Uri.parse("sip:example.com"), headers=headers)


def challenged(realm: Realm, *authorizations: str, now: float = 0.0) -> list[Challenge]:
    with pytest.raises(RemoteProtocolError) as caught:
        realm.check(request(*authorizations), PASSWORDS.get, now)
    assert (caught.value.status, caught.value.reason) == (401, "Unauthorized")
    assert all(name == "WWW-Authenticate" for name, _ in caught.value.headers)
    return [Challenge.parse(value) for _, value in caught.value.headers]


def proof(challenge: Challenge, *, username: str = "alice", password: str = "wonderland", count: int = 1) -> str:
    return str(
        challenge.credentials(
            username=username,
            password=password,
            method="INVITE",
            uri="sip:example.com",
            cnonce="c",
            nonce_count=count,
        )
    )


@pytest.mark.conformance(
    "RFC 8760", "2.3", "a server challenges once in each of its algorithms, the preferred one first"
)
def test_a_request_without_proof_is_challenged_in_each_algorithm() -> None:
    challenges = challenged(realm())
    assert [challenge.algorithm for challenge in challenges] == ["SHA-512-256", "SHA-256", "MD5"]
    assert all((c.realm, c.qop, c.stale) == ("example.com", ("auth",), False) for c in challenges)
    assert len({challenge.nonce for challenge in challenges}) == 1


@pytest.mark.conformance("RFC 7616", "3.3", "each challenge has a nonce of its own")
def test_no_two_nonces_are_alike_and_each_has_128_bits_of_signature() -> None:
    guard = realm()
    nonces = {guard.challenges(1.0)[0].nonce for _ in range(100)}
    assert len(nonces) == 100
    assert all(len(nonce) >= 43 for nonce in nonces)
    assert nonces.isdisjoint(Realm("example.com", secret=SECRET[::-1]).challenges(1.0)[0].nonce for _ in range(100))


@pytest.mark.conformance("RFC 3261", "22.2", "who answers the challenge is let in")
@pytest.mark.parametrize("index", [0, 1, 2])
def test_who_proves_to_know_the_password_is_named(index: int) -> None:
    guard = realm()
    challenge = challenged(guard)[index]
    assert guard.check(request(proof(challenge)), PASSWORDS.get, 1.0) == "alice"


@pytest.mark.conformance("RFC 3261", "22.3", "credentials for other realms are passed over")
def test_credentials_for_other_realms_and_schemes_are_passed_over() -> None:
    guard = realm()
    challenge = challenged(guard)[0]
    others = ("Basic YTpi", proof(Challenge(realm="other", nonce="n")))
    assert guard.check(request(*others, proof(challenge)), PASSWORDS.get, 1.0) == "alice"
    challenged(guard, *others)


def test_a_wrong_password_and_an_unknown_user_look_alike() -> None:
    guard = realm()
    challenge = challenged(guard)[0]
    wrong = challenged(guard, proof(challenge, password="guess"))
    unknown = challenged(guard, proof(challenge, username="mallory", password=""))
    assert [replace(c, nonce="") for c in wrong] == [replace(c, nonce="") for c in unknown]
    assert not wrong[0].stale


@pytest.mark.conformance("RFC 7616", "3.4.3", "the response holds for its method alone")
def test_another_method_is_not_proven() -> None:
    guard = realm()
    text = proof(challenged(guard)[0])
    with pytest.raises(RemoteProtocolError):
        guard.check(request(text, method="BYE"), PASSWORDS.get, 1.0)


@pytest.mark.conformance("RFC 7616", "3.4", "a nonce serves again with a higher nonce count")
def test_a_nonce_serves_again_with_a_higher_count() -> None:
    guard = realm()
    challenge = challenged(guard)[0]
    for count in (1, 2, 5):
        assert guard.check(request(proof(challenge, count=count)), PASSWORDS.get, 1.0) == "alice"


@pytest.mark.conformance("RFC 7616", "3.4", "a nonce count that has been used is refused")
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_replay_is_refused_as_stale(count: int) -> None:
    guard = realm()
    challenge = challenged(guard)[0]
    guard.check(request(proof(challenge, count=3)), PASSWORDS.get, 1.0)
    renewed = challenged(guard, proof(challenge, count=count))[0]
    assert renewed.stale
    assert guard.check(request(proof(renewed)), PASSWORDS.get, 1.0) == "alice"


@pytest.mark.conformance("RFC 7616", "3.3", "stale=true says that the nonce is invalid, and nothing about the password")
def test_a_nonce_expires_and_then_says_nothing_about_the_password() -> None:
    guard = realm(nonce_lifetime_s=10.0)
    challenge = challenged(guard, now=100.0)[0]
    assert guard.check(request(proof(challenge)), PASSWORDS.get, 110.0) == "alice"
    assert challenged(guard, proof(challenge, count=2), now=110.1)[0].stale
    assert challenged(guard, proof(challenge, count=2, password="guess"), now=110.1)[0].stale


@pytest.mark.conformance("RFC 7616", "5.4", "a nonce serves the address that it was given to")
def test_a_nonce_serves_the_address_that_it_was_given_to() -> None:
    """Who makes up source addresses never sees a nonce, and so cannot have its guesses counted as another's."""
    guard = realm()
    challenge = guard.challenges(0.0, source="192.0.2.1")[0]
    with pytest.raises(RemoteProtocolError) as caught:
        guard.check(request(proof(challenge, password="guess")), PASSWORDS.get, 1.0, source="192.0.2.2")
    assert not isinstance(caught.value, WrongProof)
    assert guard.check(request(proof(challenge)), PASSWORDS.get, 1.0, source="192.0.2.1") == "alice"


def test_a_guess_is_told_from_a_request_without_proof() -> None:
    guard = realm()
    challenge = challenged(guard)[0]
    for text in (proof(challenge, password="guess"), proof(challenge, username="mallory")):
        with pytest.raises(WrongProof):
            guard.check(request(text), PASSWORDS.get, 1.0)


def test_a_nonce_from_the_future_or_of_another_make_is_stale() -> None:
    guard = realm()
    challenge = challenged(guard, now=50.0)[0]
    assert challenged(guard, proof(challenge), now=49.0)[0].stale
    for nonce in ("", "x", "ä", "=" * 7, challenge.nonce[:-4], "B" + challenge.nonce[1:], challenge.nonce * 2):
        assert challenged(guard, proof(replace(challenge, nonce=nonce)), now=50.0)[0].stale
    other = Realm("other.example.com", secret=SECRET).challenges(50.0)[0]
    assert challenged(guard, proof(replace(other, realm="example.com")), now=50.0)[0].stale


def test_without_qop_a_nonce_serves_once() -> None:
    guard = realm()
    challenge = replace(challenged(guard)[1], qop=())
    assert guard.check(request(proof(challenge)), PASSWORDS.get, 1.0) == "alice"
    assert challenged(guard, proof(challenge))[0].stale


def test_what_was_not_asked_for_is_no_proof() -> None:
    guard = Realm("example.com", secret=SECRET, algorithms=("SHA-256",))
    (challenge,) = challenged(guard)
    assert not challenged(guard, proof(replace(challenge, algorithm="MD5")))[0].stale
    assert not challenged(guard, proof(replace(challenge, qop=("auth-int",))))[0].stale
    assert not challenged(guard, proof(replace(challenge, algorithm="SHA-256-sess")))[0].stale


def test_what_is_remembered_is_bounded_and_what_is_forgotten_is_stale() -> None:
    guard = realm(remembered=3)
    challenges = [guard.challenges(0.0)[0] for _ in range(5)]
    for challenge in challenges:
        guard.check(request(proof(challenge)), PASSWORDS.get, 1.0)
    for challenge in challenges[:2]:
        assert challenged(guard, proof(challenge, count=2))[0].stale
    for challenge in challenges[2:]:
        assert guard.check(request(proof(challenge, count=2)), PASSWORDS.get, 1.0) == "alice"


def test_a_guesser_leaves_no_trace_in_what_is_remembered() -> None:
    guard = realm(remembered=1)
    challenge = challenged(guard)[0]
    guard.check(request(proof(challenge)), PASSWORDS.get, 1.0)
    for _ in range(5):
        challenged(guard, proof(guard.challenges(1.0)[0], password="guess"))
    assert guard.check(request(proof(challenge, count=2)), PASSWORDS.get, 1.0) == "alice"


def test_an_impossible_realm_is_our_fault() -> None:
    for options in ({"secret": b"short"}, {"algorithms": ("ROT13",)}, {"algorithms": ()}):
        with pytest.raises(LocalProtocolError):
            Realm("r", **{"secret": SECRET, **options})  # type: ignore[arg-type]


TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\n"), max_size=12)


@settings(deadline=None, max_examples=80)
@given(
    credentials=st.builds(
        Credentials,
        username=TEXT,
        realm=TEXT,
        nonce=TEXT,
        uri=TEXT,
        response=TEXT,
        algorithm=st.sampled_from(("", *ALGORITHMS)),
        qop=st.just("auth"),
        cnonce=TEXT,
        nonce_count=st.integers(0, 2**32 - 1),
        opaque=st.none() | TEXT,
    )
)
def test_credentials_read_as_they_are_written(credentials: Credentials) -> None:
    assert Credentials.parse(str(credentials)) == credentials


@settings(deadline=None, max_examples=300)
@given(text=st.text(st.sampled_from('Digest realm="x",nonceuqpa\\ \tnc=0ä;'), max_size=80))
def test_no_authorization_raises_anything_but_a_challenge(text: str) -> None:
    challenged(realm(), "Digest " + text)
