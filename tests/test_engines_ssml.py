"""SSML is parsed, checked and written anew; what an engine's scanner would trip over does not get through."""

from __future__ import annotations

import contextlib
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import UnsuitableUtterance
from engines.ssml import DEEPEST, LONGEST_BREAK_S, rewrite


@pytest.mark.parametrize(
    ("document", "rewritten"),
    [
        ("<speak>Hello.</speak>", "<speak>Hello.</speak>"),
        ("<?xml version='1.0'?><speak version='1.1' xml:lang='de'>Ja</speak>", '<speak xml:lang="de">Ja</speak>'),
        (
            "<speak xmlns='http://www.w3.org/2001/10/synthesis'><s>A</s><p>B</p></speak>",
            "<speak><s>A</s><p>B</p></speak>",
        ),
        ("<speak>a<break time='1.5s'/>b</speak>", '<speak>a<break time="1500ms"></break>b</speak>'),
        ("<speak>a<break time=' 250ms '/>b</speak>", '<speak>a<break time="250ms"></break>b</speak>'),
        (
            "<speak><prosody rate='80%' pitch='+10%' onload='x'>a</prosody></speak>",
            '<speak><prosody rate="80%" pitch="+10%">a</prosody></speak>',
        ),
        ("<speak><sub alias='AT&amp;T'>the company</sub></speak>", "<speak> AT&amp;T </speak>"),
        ("<speak>1 &lt; 2 &amp; 3 &gt; 2</speak>", "<speak>1 &lt; 2 &amp; 3 &gt; 2</speak>"),
        ("<speak>a<!-- x > y -->b</speak>", "<speak>ab</speak>"),
        ("<speak>a<![CDATA[ <b> & ]]>c</speak>", "<speak>a &lt;b&gt; &amp; c</speak>"),
        ("<speak>a<?php echo ?>b</speak>", "<speak>ab</speak>"),
        ("<speak>a<metadata><x>secret</x></metadata>b</speak>", "<speak>a b</speak>"),
        ("<speak><phoneme alphabet='ipa' ph='x]]'>tomato</phoneme></speak>", "<speak> tomato </speak>"),
        ("<speak>one<unknown>two</unknown>three</speak>", "<speak>one two three</speak>"),
        (
            "<speak><audio src='/etc/passwd'>instead<desc>a sound</desc></audio></speak>",
            "<speak> instead </speak>",
        ),
    ],
)
def test_a_document_is_written_anew(document: str, rewritten: str) -> None:
    assert rewrite(document) == rewritten


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("", "not well-formed"),
        ("Hello.", "not well-formed"),
        ("<speak>Hello.", "no element found in line 1, column 14"),
        ("<speak>\n<b>x</i></speak>", "mismatched tag in line 2"),
        ("<speak>a & b</speak>", "not well-formed"),
        ("<speak>a</speak><speak>b</speak>", "junk after document element"),
        ("<speak>&nbsp;</speak>", "undefined entity"),
        ("<speak>&#1;</speak>", "invalid character number"),
        ("<speak>\x00</speak>", "not well-formed"),
        ("<speech>a</speech>", "root element is <speech>; it is to be <speak>"),
        ("<ssml:speak xmlns:ssml='x'>a</ssml:speak>", "it is to be <speak>"),
        ("<!DOCTYPE speak><speak>a</speak>", "remove the <!DOCTYPE"),
        ("<!DOCTYPE s SYSTEM 'file:///etc/passwd'><speak>a</speak>", "remove the <!DOCTYPE"),
        ("<!DOCTYPE s [<!ENTITY a 'ha'><!ENTITY b '&a;&a;'>]><speak>&b;</speak>", "remove the <!DOCTYPE"),
        ("<!DOCTYPE s [<!ENTITY % a SYSTEM 'http://127.0.0.1/'>%a;]><speak>a</speak>", "remove the <!DOCTYPE"),
        ("<speak></speak>", "nothing to say"),
        ("<speak> <break/> ... </speak>", "nothing to say"),
        ("<speak><metadata>words</metadata></speak>", "nothing to say"),
        ("<speak>a<break time='soon'/></speak>", 'write a time such as "500ms"'),
        (f"<speak>a<break time='{LONGEST_BREAK_S + 1}s'/></speak>", "may last 60 s"),
        ("<speak>a" + "<break time='60s'/>" * 11 + "</speak>", "all of a document together 600 s"),
        ("<speak>" + "<p>" * DEEPEST + "a" + "</p>" * DEEPEST + "</speak>", "nested deeper than 16"),
        ("<speak><voice name='a name=../x'>a</voice></speak>", "not a value"),
        ("<speak><voice name='a&quot;b'>a</voice></speak>", "not a value"),
        ("<speak xml:lang='" + "x" * 101 + "'>a</speak>", "not a value"),
    ],
)
def test_a_document_is_refused(document: str, complaint: str) -> None:
    with pytest.raises(UnsuitableUtterance, match=re.escape(complaint)):
        rewrite(document)


_TREES = st.recursive(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cn"]), min_size=1).map(
        lambda text: text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    ),
    lambda inner: st.tuples(
        st.sampled_from(["p", "s", "prosody rate='1.2'", "b", "audio src='/x'", "voice name='f'"]), st.lists(inner)
    ).map(lambda node: f"<{node[0]}>{''.join(node[1])}</{node[0].partition(' ')[0]}>"),
    max_leaves=12,
)


@given(_TREES)
def test_what_is_written_anew_is_well_formed_and_stays_as_it_is(tree: str) -> None:
    document = rewrite(f"<speak>Hello {tree}</speak>")
    assert ElementTree.fromstring(document).tag == "speak"
    assert rewrite(document) == document


@given(st.text())
def test_no_text_whatever_raises_anything_else(text: str) -> None:
    for document in (text, f"<speak>{text}</speak>", f"<speak a='{text}'>x</speak>", f"<speak><{text}>x</speak>"):
        with contextlib.suppress(UnsuitableUtterance):
            assert rewrite(document).startswith("<speak")
