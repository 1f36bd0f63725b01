"""What clients may write, how it is read, and what they are told when it is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.errors import BadRequest, UnknownSession
from core.media import Voice
from core.messages import (
    MAX_AVATARS,
    MAX_CLIPS,
    MAX_TEXT,
    Audiotype,
    Human,
    Message,
    Offer,
    parse,
    session_id,
    voice_of,
)

OFFER = {"sdp": "v=0", "type": "offer"}
HUMAN = {"sessionid": 123456, "type": "echo", "text": "hi"}


def body(value: object, **more: object) -> bytes:
    return json.dumps({**value, **more} if isinstance(value, dict) else value).encode()


@pytest.mark.parametrize("written", [123456, "123456", " 123456 ", 123456.0])
def test_a_session_id_may_be_written_in_many_ways(written: object) -> None:
    assert session_id(written) == 123456


@pytest.mark.parametrize(
    "written",
    [
        None,
        True,
        "",
        "abc",
        "1.5",
        1.5,
        [1],
        {},
        "9" * 5000,
        float("nan"),
        float("inf"),
        -1e400,
    ],
)
def test_what_is_no_session_id_is_an_unknown_session(written: object) -> None:
    with pytest.raises(UnknownSession, match="session not found"):
        session_id(written)


@pytest.mark.parametrize(("written", "read"), [(2, 2), ("2", 2), (" 2 ", 2), (True, 1), (False, 0), (2.0, 2)])
def test_an_audiotype_may_be_digits_or_a_boolean(written: object, read: int) -> None:
    assert parse(Audiotype, body({"sessionid": 1, "audiotype": written})).audiotype == read


@pytest.mark.parametrize("written", [None, "", "two", 1.5, [2], {}])
def test_what_is_no_audiotype_is_refused(written: object) -> None:
    with pytest.raises(BadRequest, match=r"^audiotype: "):
        parse(Audiotype, body({"sessionid": 1, "audiotype": written}))


@pytest.mark.parametrize("written", ["true", "false", 0, 1, "1", True])
def test_a_switch_may_be_written_as_a_form_does(written: object) -> None:
    assert parse(Human, body(HUMAN, interrupt=written)).interrupt is (written in {"true", 1, "1"})


def test_fields_that_nobody_knows_are_ignored() -> None:
    assert parse(Human, body(HUMAN, emotion="glad", type="chat")).type == "chat"


CLIPS = [{"audiotype": 2, "imgpath": "wave", "audiopath": "wave.wav", "loop": True, "name": ""}]


@pytest.mark.parametrize("written", [CLIPS, json.dumps(CLIPS), f"  {json.dumps(CLIPS)}\n"])
def test_a_list_may_come_as_its_json_text(written: object) -> None:
    offer = parse(Offer, body(OFFER, custom_config=written))
    assert offer.custom_config and offer.custom_config[0].model_dump() == CLIPS[0]


@pytest.mark.parametrize("written", ["", "  ", None])
def test_an_empty_text_is_as_if_it_were_missing(written: object) -> None:
    offer = parse(Offer, body(OFFER, custom_config=written, multiavatar_config=written))
    assert offer.custom_config is None and offer.multiavatar_config is None
    assert parse(Human, body(HUMAN, tts=written)).tts is None
    assert parse(Offer, body(OFFER, custom_config="[]")).custom_config == []


@pytest.mark.parametrize(
    ("model", "message", "place"),
    [
        (Human, {"type": "echo"}, "text"),
        (Human, {**HUMAN, "type": "sesame"}, "type"),
        (Human, {**HUMAN, "text": {"sesame": 1}}, "text"),
        (Human, {**HUMAN, "text": "sesame" * MAX_TEXT}, "text"),
        (Human, {**HUMAN, "interrupt": "sesame"}, "interrupt"),
        (Human, {**HUMAN, "tts": "{sesame"}, "tts"),
        (Human, {**HUMAN, "tts": "[" * 100_000}, ""),
        (Human, {**HUMAN, "tts": ["sesame"]}, "tts"),
        (Offer, {**OFFER, "type": "sesame"}, "type"),
        (Offer, {**OFFER, "custom_config": CLIPS * (MAX_CLIPS + 1)}, "custom_config"),
        (Offer, {**OFFER, "custom_config": [{**CLIPS[0], "audiotype": 0}]}, "custom_config.0.audiotype"),
        (Offer, {**OFFER, "custom_config": [{**CLIPS[0], "run": "sesame"}]}, "custom_config.0.run"),
        (Offer, {**OFFER, "multiavatar_config": [{"avatarid": "a"}] * (MAX_AVATARS + 1)}, "multiavatar_config"),
        (Offer, {**OFFER, "sdp": "x" * 1_000_001}, "sdp"),
        (Human, [], "body"),
        (Human, "sesame", "body"),
        (Human, None, "body"),
    ],
)
def test_the_wrong_field_is_named_and_its_value_not_repeated(model: type[Message], message: Any, place: str) -> None:
    with pytest.raises(BadRequest) as error:
        parse(model, body(message))
    assert str(error.value).startswith(place) and "sesame" not in str(error.value)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("data", [b"", b"{", b"'x'", b"\xff\xfe\x00", b"[" * 100_000, b'{"a":' * 100_000])
def test_what_is_no_json_is_refused_in_plain_words(data: bytes) -> None:
    with pytest.raises(BadRequest, match="the body is not valid JSON"):
        parse(Human, data)


DEFAULT = Voice("narrator", "as he says")


@pytest.mark.parametrize(
    ("wishes", "voice"),
    [
        (None, DEFAULT),
        ({}, DEFAULT),
        ({"ref_file": "", "ref_text": ""}, DEFAULT),
        ({"ref_file": "zh-CN-YunxiNeural"}, Voice("zh-CN-YunxiNeural")),
        ({"voice": "中文女声"}, Voice("中文女声")),
        ({"ref_file": "a", "voice": "b"}, Voice("a", extra={"voice": "b"})),
        ({"ref_file": "narrator"}, DEFAULT),
        ({"ref_text": "hm", "speed": 1.2}, Voice("narrator", "hm", {"speed": 1.2})),
        ({"ref_file": "Microsoft Zira (en-US): 2.1"}, Voice("Microsoft Zira (en-US): 2.1")),
    ],
)
def test_a_voice_is_the_sessions_with_the_messages_wishes(wishes: dict[str, Any] | None, voice: Voice) -> None:
    assert voice_of(wishes, DEFAULT) == voice


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b", "C:\\x", "a\0", "x" * 200, "-x", "a\nb", ["a"], {"a": 1}]
)
def test_a_path_is_no_voice(name: object) -> None:
    with pytest.raises(BadRequest) as error:
        voice_of({"ref_file": name}, DEFAULT)
    assert "passwd" not in str(error.value)


def test_a_clients_wishes_are_not_changed() -> None:
    wishes = {"ref_file": "a", "speed": 2}
    voice_of(wishes, DEFAULT)
    assert wishes == {"ref_file": "a", "speed": 2}


def test_an_operator_s_default_voice_may_be_a_path_and_a_client_s_may_not() -> None:
    default = Voice("/srv/voices/narrator.wav", "as he says")
    assert voice_of({}, default) == default
    with pytest.raises(BadRequest, match="not a path"):
        voice_of({"ref_file": "/srv/voices/narrator.wav"}, default)
