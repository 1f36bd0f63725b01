"""Rubbish in, the contract's reply out: never a 500, never a hang, nothing taken, nobody else disturbed."""

from __future__ import annotations

import asyncio
import io
import json
import pickle
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import llm as llm_room
import ttsreal
from core.errors import EngineFailed
from core.media import Voice
from llm import BaseLLM, Message
from tests.fakes.live import Live, Peer, connected, serve
from tests.fakes.person import ToneTTS, make_avatar, save
from tests.test_contract import OK, upload, wav
from ttsreal import BaseTTS, Speech


@pytest.fixture
async def peer(live: Live) -> Any:
    async with connected(live) as peer:
        yield peer
        assert not peer.tasks[0].done(), "the other session was disturbed"


async def send(live: Live, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
    headers = {"Content-Type": "application/json"}
    async with live.http.post(live.url + path, data=io.BytesIO(body), headers=headers) as response:
        return response.status, await response.json()


POSTS = ["/offer", "/human", "/interrupt_talk", "/set_audiotype", "/is_speaking", "/record", "/get_audiotype"]
RUBBISH = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"'x'",
    b"\xff\xfe",
    b'{"sessionid": {"a": 1}}',
    b"[" * 5000,
    b'{"sessionid": NaN}',
]


@pytest.mark.parametrize("path", POSTS)
async def test_malformed_json_gets_the_envelope(live: Live, path: str) -> None:
    for body in RUBBISH:
        status, reply = await send(live, path, body)
        assert status == 200 and reply["code"] == -1 and reply["msg"]
    assert len(live.house.sessions) == 0


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/human", {"type": "echo", "text": 5}),
        ("/human", {"type": "shout", "text": "hi"}),
        ("/human", {"type": "echo"}),
        ("/human", {"text": "hi"}),
        ("/human", {"type": "echo", "text": "hi", "interrupt": "perhaps"}),
        ("/human", {"type": "echo", "text": "hi", "avatarid": "nobody"}),
        ("/human", {"type": "echo", "text": "hi", "tts": [1]}),
        ("/human", {"type": "echo", "text": "hi", "tts": "{"}),
        ("/human", {"type": "echo", "text": "hi", "tts": {"ref_file": "../../etc/passwd"}}),
        ("/human", {"type": "echo", "text": "x" * 20_001}),
        ("/set_audiotype", {}),
        ("/set_audiotype", {"audiotype": "two"}),
        ("/set_audiotype", {"audiotype": -1}),
        ("/set_audiotype", {"audiotype": 1.5}),
        ("/record", {}),
        ("/record", {"type": "pause_record"}),
    ],
)
async def test_wrong_and_missing_fields_are_named(live: Live, peer: Peer, path: str, message: dict[str, Any]) -> None:
    reply = await live.post(path, sessionid=peer.sessionid, **message)
    assert reply["code"] == -1 and reply["msg"] == reply["data"]
    assert "passwd" not in reply["msg"] and "Traceback" not in reply["msg"]


@pytest.mark.parametrize("path", ["/human", "/interrupt_talk", "/set_audiotype", "/is_speaking", "/record"])
async def test_an_unknown_session_is_said_to_be_unknown(live: Live, path: str) -> None:
    message = {"type": "start_record" if path == "/record" else "echo", "text": "hi", "audiotype": 1}
    for sessionid in (1, 999_999, "abc", "", None, 1.5, True, [1], "1" * 5000, -1):
        reply = await live.post(path, sessionid=sessionid, **message)
        assert reply["code"] == -1 and reply["msg"].lower() == "session not found"


async def test_a_missing_session_id_is_session_0(live: Live) -> None:
    assert (await live.post("/interrupt_talk"))["msg"] == "session not found"


GOOD_SDP = "\r\n".join(
    [
        "v=0",
        "o=- 1 1 IN IP4 0.0.0.0",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE 0",
        "m=video 9 UDP/TLS/RTP/SAVPF 96",
        "c=IN IP4 0.0.0.0",
        "a=recvonly",
        "a=mid:0",
        "a=ice-ufrag:abcd",
        "a=ice-pwd:abcdefghijklmnopqrstuvwx",
        "a=setup:actpass",
        "a=fingerprint:sha-256 " + ":".join(["AA"] * 32),
        "a=rtpmap:96 {codec}/90000",
        "a=rtcp-mux",
        "",
    ]
)


@pytest.mark.parametrize(
    "sdp",
    [
        "",
        "hello",
        "v=0\r\n",
        "v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n",
        "v=0\r\nm=video x y z\r\n",
        GOOD_SDP.replace("a=ice-ufrag:abcd", "a=x:y"),
        GOOD_SDP.replace("a=fingerprint", "a=finger"),
        GOOD_SDP.replace("m=video", "m=application"),
        GOOD_SDP.replace("{codec}", "AV1"),
        "x" * 100_000,
    ],
)
async def test_a_wrong_sdp_is_refused_and_frees_its_place(live: Live, sdp: str) -> None:
    for _ in range(6):  # more often than there are places
        reply = await live.post("/offer", sdp=sdp, type="offer")
        assert reply["code"] == -1 and reply["msg"] != "reach max session"
    assert len(live.house.sessions) == 0 and not live.house.sessions._opening


async def test_an_offer_of_another_type_is_refused(live: Live) -> None:
    assert (await live.post("/offer", sdp=GOOD_SDP, type="answer"))["code"] == -1


@pytest.mark.parametrize("avatar", ["nobody", "../drawn", "/etc", "a/b", "..", "drawn\x00", "drawn/", "x" * 500, "."])
async def test_an_unknown_avatar_is_refused_and_no_path_is_made_of_it(live: Live, avatar: str) -> None:
    for wishes in ({"avatar": avatar}, {"multiavatar_config": [{"avatarid": avatar}]}):
        peer = Peer(live)
        reply = await peer.connect(**wishes)
        assert reply["code"] == -1
        await peer.close()
    assert len(live.house.sessions) == 0


@pytest.mark.parametrize(
    "config",
    [
        "{",
        '{"audiotype": 2}',
        [{"audiotype": 2}],
        [{"audiotype": "x", "imgpath": "y"}],
        [{"audiotype": 2, "imgpath": "/etc"}],
        [{"audiotype": 2, "imgpath": "../../../../etc"}],
        [{"audiotype": 2, "imgpath": "avatars", "audiopath": "/etc/passwd"}],
        [{"audiotype": 2, "imgpath": "avatars"}],
        [{"audiotype": 2, "imgpath": "avatars", "run": "this"}],
        [{"audiotype": 2, "imgpath": "avatars"}] * 17,
        5,
    ],
)
async def test_a_bad_custom_config_is_refused(live: Live, config: object) -> None:
    peer = Peer(live)
    reply = await peer.connect(custom_config=config)
    assert reply["code"] == -1 and "/etc" not in reply["msg"]
    await peer.close()
    assert len(live.house.sessions) == 0


@pytest.mark.parametrize("data", [b"", b"\x00" * 1000, b"not a sound at all", wav()[:30], pickle.dumps({"a": 1})])
async def test_what_is_no_sound_is_refused(live: Live, peer: Peer, data: bytes) -> None:
    reply = await upload(live, str(peer.sessionid), data)
    assert reply["code"] == -1 and reply["msg"] == "err" and reply["data"]


async def test_an_upload_without_file_or_session_is_refused(live: Live, peer: Peer) -> None:
    form = aiohttp.FormData({"sessionid": str(peer.sessionid)}, quote_fields=False)
    form.add_field("other", b"x", filename="x.bin")
    async with live.http.post(live.url + "/humanaudio", data=form) as response:
        assert (await response.json())["msg"] == "err"
    assert (await upload(live, "17", wav()))["data"] == "session not found"
    status, reply = await send(live, "/humanaudio", b"{}")
    assert status == 200 and reply["msg"] == "err"


async def test_an_upload_of_101_mb_is_refused_with_413(live: Live, peer: Peer) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(101):
            yield bytes(1 << 20)

    form = aiohttp.FormData()
    form.add_field("sessionid", str(peer.sessionid))
    form.add_field("file", io.BytesIO(bytes(101 << 20)), filename="big.wav")
    async with live.http.post(live.url + "/humanaudio", data=form) as response:
        assert response.status == 413 and (await response.json())["code"] == -1
    # without a content length it is cut where it passes the limit
    writer = aiohttp.MultipartWriter("form-data")
    part = writer.append(pieces())
    part.set_content_disposition("form-data", name="file", filename="big.wav")
    async with live.http.post(live.url + "/humanaudio", data=writer) as response:
        assert response.status == 413
    assert await live.post("/interrupt_talk", sessionid=peer.sessionid) == OK


async def test_a_json_body_of_3_mb_is_refused_with_413(live: Live) -> None:
    status, reply = await send(live, "/human", b'{"text": "' + b"x" * (3 << 20) + b'"}')
    assert status == 413 and reply["code"] == -1


async def test_an_unknown_audiotype_is_an_error_if_the_operator_wants_it(data_dir: Path) -> None:
    async with serve(data_dir, strict=True) as live, connected(live) as peer:
        assert (await live.post("/set_audiotype", sessionid=peer.sessionid, audiotype=9))["code"] == -1


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/offer", 405), ("PUT", "/human", 405), ("GET", "/nothing.html", 404)]
)
async def test_unrouted_paths_and_methods_keep_their_status(live: Live, method: str, path: str, status: int) -> None:
    async with live.http.request(method, live.url + path) as response:
        assert response.status == status and (await response.json())["code"] == -1


@pytest.mark.parametrize(
    "path", ["/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "/lib/", "/record/..%2f..%2fx", "/%00"]
)
async def test_nothing_outside_the_pages_is_served(live: Live, path: str) -> None:
    from yarl import URL

    async with live.http.get(URL(live.url + path, encoded=True)) as response:
        assert response.status in {400, 404} or (path == "/../app.py" and response.status == 200)
        assert b"composition root" not in await response.read()


async def test_a_token_is_asked_for_where_one_is_set(data_dir: Path) -> None:
    async with serve(data_dir, api_token="sesame") as live:
        for headers, status in (({}, 401), ({"Authorization": "Bearer wrong"}, 401)):
            async with live.http.post(live.url + "/human", json={}, headers=headers) as response:
                assert response.status == status and (await response.json())["code"] == -1
        async with live.http.post(live.url + "/human", json={}, headers={"Authorization": "Bearer sesame"}) as response:
            assert response.status == 200
        for path in ("/healthz", "/", "/openapi.json"):
            async with live.http.get(live.url + path) as response:
                assert response.status == 200
        async with live.http.options(
            live.url + "/human", headers={"Access-Control-Request-Method": "POST"}
        ) as response:
            assert response.status == 200


async def test_too_many_offers_from_one_address_are_refused(data_dir: Path) -> None:
    async with serve(data_dir, offer_rate=3) as live:
        replies = [await live.post("/offer", sdp="x", type="offer") for _ in range(4)]
        assert "too many" in replies[3]["msg"] and "too many" not in replies[2]["msg"]


class StallingLLM(BaseLLM):
    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        yield "Let me think. "
        raise EngineFailed("the language model did not answer in time")


class CutTTS(BaseTTS):
    """Says half a sentence, then its connection is gone."""

    async def stream(self, text: str, voice: Voice) -> AsyncIterator[Speech]:
        async with aclosing(ToneTTS().stream(text[:3], voice)) as half:  # type: ignore[type-var]
            async for speech in half:
                yield speech
        raise EngineFailed("the speech engine broke off")


class HangingTTS(BaseTTS):
    async def stream(self, text: str, voice: Voice) -> AsyncIterator[Speech]:
        await asyncio.Event().wait()
        yield Speech(wav)  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ["CutTTS", "HangingTTS"])
async def test_a_tts_that_fails_or_stalls_is_an_event_and_the_session_goes_on(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.setitem(ttsreal.TTS._table, "bad", f"{__name__}:{engine}")
    async with serve(data_dir, tts="bad", tts_timeout_s=0.3) as live, connected(live) as peer:
        assert await live.post("/human", sessionid=peer.sessionid, type="echo", text="Hello world") == OK
        await asyncio.sleep(1.5)
        kinds = [json.loads(event)["event"] for event in peer.events]
        assert "error" in kinds and kinds[-1] == "speak-end"
        assert (await live.post("/is_speaking", sessionid=peer.sessionid))["data"] is False


async def test_an_llm_that_ends_mid_stream_is_an_event_and_its_words_are_heard(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(llm_room.LLM._table, "bad", f"{__name__}:StallingLLM")
    async with serve(data_dir, llm="bad") as live, connected(live) as peer:
        assert await live.post("/human", sessionid=peer.sessionid, type="chat", text="Hello?") == OK
        await asyncio.sleep(2.5)
        events = [json.loads(event) for event in peer.events]
        assert "Let me think." in [event.get("text") for event in events]
        assert [event["event"] for event in events][-2:] == ["error", "speak-end"] or "error" in str(events)
        assert events[-1]["event"] == "speak-end"


async def test_a_peer_that_vanishes_is_noticed_and_freed(data_dir: Path) -> None:
    async with serve(data_dir, dead_timeout_s=1.5) as live, connected(live) as other:
        peer = Peer(live)
        await peer.connect()
        await asyncio.wait_for(peer.first_picture.wait(), 10)
        assert len(live.house.sessions) == 2
        for transceiver in peer.pc.getTransceivers():  # as if the machine had lost its power: no BYE, no close
            ice = transceiver.receiver.transport.transport
            for protocol in ice.iceGatherer._connection._protocols:
                protocol.transport.abort()
        for _ in range(60):
            await asyncio.sleep(0.1)
            if len(live.house.sessions) == 1:
                break
        assert [real.id for real in live.house.sessions] == [other.sessionid]
        await peer.close()


async def test_a_peer_that_never_connects_is_reaped(data_dir: Path) -> None:
    async with serve(data_dir, connect_timeout_s=0.5) as live:
        reply = await live.post("/offer", sdp=GOOD_SDP.replace("{codec}", "VP8"), type="offer")
        assert "sdp" in reply
        assert len(live.house.sessions) == 1
        await asyncio.sleep(1.2)
        assert len(live.house.sessions) == 0


async def test_a_damaged_avatar_is_refused(data_dir: Path) -> None:
    folder = data_dir / "avatars" / "damaged"
    if not folder.exists():
        await asyncio.to_thread(save, data_dir / "avatars", make_avatar("damaged", (64, 64), 4))
        (folder / "frames.mp4").write_bytes(b"rubbish")
    async with serve(data_dir) as live:
        peer = Peer(live)
        reply = await peer.connect(avatar="damaged")
        assert reply["code"] == -1 and str(data_dir) not in reply["msg"]
        await peer.close()
