"""Each request of the three LiveTalking documents, as their clients send it, and what those clients read."""

from __future__ import annotations

import asyncio
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.conftest import SHARED
from tests.fakes.live import Live, Peer, connected, serve
from tests.fakes.person import tone

OK = {"code": 0, "msg": "ok", "data": "ok"}


def wav(seconds: float = 0.5, rate: int = 44_100, channels: int = 2) -> bytes:
    """A tone as a WAV file."""
    samples = 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)
    file = io.BytesIO()
    soundfile.write(file, np.stack([samples] * channels, axis=1), rate, format="WAV")
    return file.getvalue()


@pytest.fixture
async def peer(live: Live) -> Any:
    async with connected(live) as peer:
        yield peer


async def test_offer_answers_exactly_sdp_type_and_a_six_digit_session_id(live: Live) -> None:
    peer = Peer(live)
    reply = await peer.connect()
    assert set(reply) == {"sdp", "type", "sessionid"}
    assert reply["type"] == "answer"
    assert isinstance(reply["sessionid"], int) and 100_000 <= reply["sessionid"] <= 999_999
    assert reply["sdp"].index("H264") < reply["sdp"].index("VP8") if "VP8" in reply["sdp"] else "H264" in reply["sdp"]
    await peer.close()


async def test_offer_takes_every_field_of_document_2(live: Live) -> None:
    wishes = {
        "avatar": "drawn",
        "refaudio": "zh-CN-YunxiaNeural",
        "reftext": "what it says",
        "llmid": "shop",
        "custom_config": "",
        "multiavatar_config": json.dumps([{"avatarid": "drawn"}]),
    }
    async with connected(live, microphone=None, **wishes) as peer:
        choice = live.house.sessions.get(peer.sessionid).choice
        assert (choice.voice.name, choice.voice.ref_text) == ("zh-CN-YunxiaNeural", "what it says")
        assert set(choice.avatars) == {"main", "drawn"} and choice.llm_id == "shop"
        assert await live.post("/human", sessionid=peer.sessionid, type="echo", text="Hi", avatarid="drawn") == OK


async def test_offer_beyond_max_session_is_refused_in_the_documented_words(live: Live) -> None:
    peers = [Peer(live) for _ in range(5)]
    replies = [await peer.connect() for peer in peers]
    assert [reply.get("code") for reply in replies] == [None] * 4 + [-1]
    assert replies[-1]["msg"] == "reach max session"
    for peer in peers:
        await peer.close()


@pytest.mark.parametrize("kind", ["echo", "chat"])
async def test_human_answers_at_once_and_speaks(live: Live, peer: Peer, kind: str) -> None:
    assert await live.post("/human", sessionid=peer.sessionid, type=kind, text="你好", interrupt=False) == OK
    await asyncio.sleep(0.5)
    assert max(rms for _, _, rms in peer.sounds) > 0.2


async def test_human_takes_the_request_of_document_2_word_for_word(live: Live, peer: Peer) -> None:
    message = {
        "text": "hello",
        "type": "echo",
        "interrupt": True,
        "sessionid": peer.sessionid,
        "avatarid": "main",
        "tts": {"ref_file": "xxx", "ref_text": "xxx"},
    }
    assert await live.post("/human", **message) == OK
    assert await live.post("/human", **{**message, "tts": json.dumps(message["tts"])}) == OK


async def test_human_with_interrupt_and_no_text_is_a_stop_button(live: Live, peer: Peer) -> None:
    await live.post("/human", sessionid=peer.sessionid, type="echo", text="a very long sentence " * 5)
    await asyncio.sleep(0.5)
    assert await live.post("/human", sessionid=peer.sessionid, type="echo", text="", interrupt=True) == OK
    assert (await live.post("/is_speaking", sessionid=peer.sessionid))["data"] is False


async def test_session_ids_may_be_digits_or_integral_floats(live: Live, peer: Peer) -> None:
    for written in (peer.sessionid, str(peer.sessionid), float(peer.sessionid)):
        assert await live.post("/interrupt_talk", sessionid=written) == OK


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded"])
async def test_a_json_body_is_read_whatever_its_content_type(live: Live, peer: Peer, content_type: str) -> None:
    body = json.dumps({"sessionid": peer.sessionid, "type": "echo", "text": "hi"})
    headers = {"Content-Type": content_type}
    async with live.http.post(live.url + "/human", data=body, headers=headers) as response:
        assert await response.json() == OK


async def test_a_urlencoded_form_is_read_too(live: Live, peer: Peer) -> None:
    form = {"sessionid": str(peer.sessionid), "type": "echo", "text": "hi", "interrupt": "true"}
    async with live.http.post(live.url + "/human", data=form) as response:
        assert await response.json() == OK


async def test_humanaudio_speaks_a_file_of_any_rate_and_channels(live: Live, peer: Peer) -> None:
    reply = await upload(live, str(peer.sessionid), wav())
    assert reply == OK
    await asyncio.sleep(1)
    assert max(rms for _, _, rms in peer.sounds) > 0.2


async def upload(live: Live, sessionid: str, data: bytes) -> dict[str, Any]:
    import aiohttp

    form = aiohttp.FormData()
    form.add_field("sessionid", sessionid)
    form.add_field("file", data, filename="audio.wav")
    async with live.http.post(live.url + "/humanaudio", data=form) as response:
        assert response.status == 200
        reply: dict[str, Any] = await response.json()
        return reply


@pytest.mark.parametrize("audiotype", [0, 1, "1", True])
async def test_set_audiotype_is_always_effective_for_0_and_1(live: Live, peer: Peer, audiotype: object) -> None:
    message = {"sessionid": peer.sessionid, "audiotype": audiotype, "reinit": True}
    assert await live.post("/set_audiotype", **message) == OK
    async with live.http.get(live.url + f"/get_audiotype?sessionid={peer.sessionid}") as response:
        state = await response.json()
    assert state["audiotype"] == state["data"] == int(audiotype)  # type: ignore[call-overload]


async def test_set_audiotype_without_reinit_and_of_an_unknown_state(live: Live, peer: Peer) -> None:
    reply = await live.post("/set_audiotype", sessionid=peer.sessionid, audiotype=9)
    assert reply["code"] == 0 and "9" in reply["warning"]


async def test_custom_states_come_with_the_offer(live: Live) -> None:
    folder = live.house.settings.data_dir / "wave"
    await asyncio.to_thread(_write_clip, folder)
    config = [{"audiotype": 2, "imgpath": str(folder), "audiopath": str(folder / "wave.wav"), "loop": True}]
    for form in (config, json.dumps(config)):
        async with connected(live, custom_config=form) as peer:
            assert await live.post("/set_audiotype", sessionid=peer.sessionid, audiotype=2, reinit=True) == OK
            await asyncio.sleep(1.5)
            assert min(light for _, _, light in peer.pictures) < 60
            assert max(rms for _, _, rms in peer.sounds) > 0.2
            assert any('"state"' in event for event in peer.events)


async def test_custom_states_and_further_avatars_come_from_the_settings(data_dir: Path, tmp_path: Path) -> None:
    await asyncio.to_thread(_write_clip, tmp_path / "wave")
    states = tmp_path / "states.json"
    states.write_text(json.dumps([{"audiotype": 2, "imgpath": str(tmp_path / "wave"), "audiopath": ""}]))
    further = tmp_path / "avatars.json"
    further.write_text('[{"avatarid": "drawn"}]')
    async with (
        serve(data_dir, customvideo_config=str(states), multiavatar_config=str(further)) as live,
        connected(live) as peer,
    ):
        async with live.http.get(live.url + f"/get_audiotype?sessionid={peer.sessionid}") as response:
            assert (await response.json())["states"] == [0, 1, 2]
        assert await live.post("/set_audiotype", sessionid=peer.sessionid, audiotype=2) == OK
        await asyncio.sleep(1)
        assert min(light for _, _, light in peer.pictures) < 60
        assert await live.post("/human", sessionid=peer.sessionid, type="echo", text="Hi", avatarid="drawn") == OK


def _write_clip(folder: Path) -> None:
    import cv2

    folder.mkdir(exist_ok=True)
    for number in range(5):
        cv2.imwrite(str(folder / f"{number:08d}.png"), np.full((128, 128, 3), 20, np.uint8))
    soundfile.write(folder / "wave.wav", tone(1.0), 16_000)


async def test_is_speaking_is_true_while_speech_is_audible(live: Live, peer: Peer) -> None:
    quiet = {"code": 0, "msg": "ok", "data": False}
    assert await live.post("/is_speaking", sessionid=peer.sessionid) == quiet
    await live.post("/human", sessionid=peer.sessionid, type="echo", text="0123456789")
    await asyncio.sleep(0.5)
    assert (await live.post("/is_speaking", sessionid=peer.sessionid))["data"] is True
    await live.post("/interrupt_talk", sessionid=peer.sessionid)
    assert await live.post("/is_speaking", sessionid=peer.sessionid) == quiet


async def test_is_speaking_of_an_unknown_session_answers_as_document_1(live: Live) -> None:
    assert await live.post("/is_speaking", sessionid=1) == {"code": -1, "data": False, "msg": "Session not found"}


async def test_record_writes_data_record_mp4(live: Live, peer: Peer) -> None:
    import av

    for _ in range(2):  # twice is as good as once
        assert await live.post("/record", sessionid=peer.sessionid, type="start_record") == OK
    await live.post("/human", sessionid=peer.sessionid, type="echo", text="0123456789")
    await asyncio.sleep(2)
    for _ in range(2):
        assert await live.post("/record", sessionid=peer.sessionid, type="end_record") == OK
    data = live.house.settings.data_dir
    async with live.http.get(live.url + f"/record/{peer.sessionid}") as response:
        assert response.content_type == "video/mp4"
        assert await response.read() == await asyncio.to_thread((data / "record.mp4").read_bytes)
    with av.open(str(data / "record.mp4")) as file:
        video, audio = file.streams.video[0], file.streams.audio[0]
        assert video.codec_context.name == "h264" and audio.codec_context.name == "aac"
        assert 40 <= sum(1 for _ in file.decode(video)) <= 60


async def test_sse_tells_what_happens(live: Live, peer: Peer) -> None:
    async with live.http.get(live.url + f"/sse?sessionid={peer.sessionid}") as response:
        assert response.content_type == "text/event-stream"
        await live.post("/human", sessionid=peer.sessionid, type="echo", text="Hello")
        seen: list[dict[str, Any]] = []
        while not seen or seen[-1]["event"] != "speak-end":
            line = await response.content.readline()
            if line.startswith(b"data: "):
                seen.append(json.loads(line[6:]))
    assert [event["event"] for event in seen] == ["speak-start", "sentence", "word", "speak-end"]
    assert seen[0]["status"] == "start" and seen[-1]["status"] == "end"


async def test_the_data_channel_tells_the_same(live: Live, peer: Peer) -> None:
    await live.post("/human", sessionid=peer.sessionid, type="echo", text="Hello")
    await asyncio.sleep(1.5)
    assert [json.loads(event)["event"] for event in peer.events] == ["speak-start", "sentence", "word", "speak-end"]


async def test_a_session_can_be_deleted(live: Live, peer: Peer) -> None:
    async with live.http.delete(live.url + f"/session/{peer.sessionid}") as response:
        assert await response.json() == OK
    async with live.http.delete(live.url + f"/session/{peer.sessionid}") as response:
        assert response.status == 404 and (await response.json())["code"] == -1
    assert len(live.house.sessions) == 0


async def test_admin_lists_sessions_and_settings_but_no_secret(data_dir: Path) -> None:
    secrets = {"openai_api_key": "sk-sesame", "TTS_SERVER": "http://user:sesame@host:1", "turn_credential": "sesame"}
    async with serve(data_dir, **secrets) as live, connected(live) as peer:
        async with live.http.get(live.url + "/api/admin/sessions") as response:
            (about,) = (await response.json())["data"]["sessions"]
        assert about["sessionid"] == peer.sessionid and about["transport"] == "webrtc"
        async with live.http.get(live.url + "/api/admin/config") as response:
            text = await response.text()
        assert "listenport" in text and "sesame" not in text


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/api/avatars", "/api/webrtc", "/openapi.json"])
async def test_what_there_is_can_be_asked(live: Live, path: str) -> None:
    async with live.http.get(live.url + path) as response:
        assert response.status == 200 and await response.json()


async def test_openapi_describes_every_route(live: Live) -> None:
    async with live.http.get(live.url + "/openapi.json") as response:
        paths = (await response.json())["paths"]
    assert {"/offer", "/human", "/humanaudio", "/record/{sessionid}", "/session/{sessionid}", "/sse"} <= set(paths)
    fields = json.dumps(paths["/human"]["post"])
    assert "Human" in fields


async def test_metrics_count_sessions(live: Live, peer: Peer) -> None:
    async with live.http.get(live.url + "/metrics") as response:
        text = await response.text()
    assert "vivace_sessions 1.0" in text and str(peer.sessionid) not in text


@pytest.mark.parametrize("path", ["/human", "/nowhere", "/sse?sessionid=1"])
async def test_any_origin_may_ask_and_preflights_succeed(live: Live, path: str) -> None:
    headers = {
        "Origin": "https://example.org",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    async with live.http.options(live.url + path, headers=headers) as response:
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Headers"] == "content-type"
    async with live.http.get(live.url + path, headers=headers) as response:
        assert response.headers["Access-Control-Allow-Origin"] == "https://example.org"


PAGES = ["", "dashboard.html", "webrtcapi.html", "rtcpushapi.html", "echoapi.html", "rtmpapi.html", "chat.html", "docs"]


@pytest.mark.parametrize("page", PAGES)
async def test_the_pages_are_there(live: Live, page: str) -> None:
    async with live.http.get(f"{live.url}/{page}") as response:
        assert response.status == 200 and response.content_type == "text/html"


async def test_the_python_example_of_document_1_runs_verbatim(live: Live, tmp_path: Path) -> None:
    document = SHARED / "seeds" / "1-zj-shuziren-api.md"
    if not document.exists():
        pytest.skip(f"{document.name} is not here")
    text = document.read_text(encoding="utf-8")
    start = text.index("import asyncio\nimport json")
    end = text.index("2) 文本触发发声")
    script = text[start:end].replace("http://<server-host>:8010", live.url)
    assert re.search(r"requests\.post\(", script)
    calls = text[text.index("def send_text") : text.index("错误处理与超时建议")]
    functions = "\n".join(line for line in calls.splitlines() if not re.match(r"[2-6]\)|BASE_URL", line))
    sound = tmp_path / "audio.wav"
    sound.write_bytes(wav())
    script = (
        script.replace('if __name__ == "__main__":\n    asyncio.run(webrtc_connect())', functions)
        + f"""
async def main():
    pc, sessionid = await webrtc_connect()
    for _ in range(50):
        if pc.connectionState == "connected":
            break
        await asyncio.sleep(0.1)
    print("state", pc.connectionState)
    send_text(sessionid, "你好，今天天气怎么样？", mode="chat")
    upload_audio(sessionid, {str(sound)!r})
    set_audiotype(sessionid, 1, True)
    record_control(sessionid, "start_record")
    await asyncio.sleep(1)
    print("speaking", is_speaking(sessionid))
    record_control(sessionid, "end_record")
    await pc.close()

asyncio.run(main())
"""
    )
    (tmp_path / "example.py").write_text(LOOPBACK + script)
    done = await asyncio.to_thread(_run, tmp_path / "example.py")
    assert done.returncode == 0, done.stderr
    assert "Track received: kind=video" in done.stdout and "state connected" in done.stdout
    assert done.stdout.count("{'code': 0") == 5 and "speaking True" in done.stdout


def _run(script: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)


LOOPBACK = """import aioice.ice
aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
"""


@pytest.mark.parametrize("codec", ["VP8", "H264"])
async def test_a_peer_that_knows_one_codec_gets_it(live: Live, codec: str) -> None:
    async with connected(live, codec=codec) as peer:
        assert f"{codec}/90000" in peer.answer
        await live.post("/human", sessionid=peer.sessionid, type="echo", text="0123456789")
        await asyncio.sleep(1)
        assert len(peer.pictures) > 15 and max(light for _, _, light in peer.pictures) > 200


async def test_a_peer_that_only_listens_is_served(live: Live) -> None:
    peer = Peer(live)
    assert "sdp" in await peer.connect(video=False)
    await live.post("/human", sessionid=peer.sessionid, type="echo", text="0123456789")
    await asyncio.sleep(1)
    assert max(rms for _, _, rms in peer.sounds) > 0.2
    await peer.close()


async def test_local_candidates_never_delay_an_answer(live: Live) -> None:
    peer = Peer(live)
    peer.hidden = True
    start = asyncio.get_running_loop().time()
    assert "sdp" in await peer.connect()
    assert asyncio.get_running_loop().time() - start < 0.8  # resolving a name that nobody knows takes a second or more
    await asyncio.wait_for(peer.first_picture.wait(), 10)
    await peer.close()
