"""Vivace's composition root: settings in, a running server out. The live routes are here, one function each.

`python app.py --help` lists the settings. Importing this module loads no torch.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cv2
from aiohttp import web
from loguru import logger
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import TypeAdapter

from asr.api import API as HEARING
from asr.api import DICTATION, Dictation
from asr.turnend import find_smart_turn
from asrreal import ASR, ASRSettings, BaseASR, NoASR
from auth import add_headers, allow_cross_origin, limit_rate, refusal, render_errors, reply, require_token
from basereal import ENGINES, BaseReal, Choice, Shared
from body import read_form, read_json
from core import log
from core.audio import decode_audio
from core.avatar import Avatar, Avatars, Clip, ClipItem, load_clip
from core.config import Settings, read_settings
from core.errors import BadRequest, EngineFailed, VivaceError
from core.media import Engine, Voice
from core.messages import (
    AVATAR_LIST,
    CLIP_LIST,
    Answer,
    Audiotype,
    AvatarItem,
    Human,
    Offer,
    Record,
    SessionMessage,
    parse,
    session_id,
    voice_of,
)
from core.openapi import Operation, describe
from core.portrait import MAIN
from core.worker import InferenceWorker
from llm import LLM, SYSTEM_PROMPT, BaseLLM, LLMSettings, make_llm
from minds.minds import make_minds
from minds.profile import read_profiles
from outputs.encoder import IdleLoops
from sessions import Sessions
from studio.api import API as STUDIO
from studio.api import TASKS
from studio.tasks import Tasks
from tts.api import API as SPEECH
from tts.api import VOICES, Voices
from ttsreal import TTS, BaseTTS, VoiceSettings
from webrtc import HumanPlayer, IceServer, check_offer, set_bitrate

T = TypeVar("T")

VERSION = "0.1.0"
WEB = Path(__file__).parent / "web"
PAGES = {
    "": "dashboard.html",
    "docs": "docs.html",
    "rtmpapi.html": "echoapi.html",
    "rtmpchat.html": "echoapi.html",
    "chat.html": "echoapi.html",
}
MAX_AUDIO = 100 << 20
SSE_KEEPALIVE_S = 15.0
DASHSCOPE = "https://dashscope.aliyuncs.com/compatible-mode/v1"


@dataclass(frozen=True, slots=True, eq=False)
class House:
    """Everything that lives as long as the server."""

    settings: Settings
    sessions: Sessions
    avatars: Avatars
    model: str
    real: type[BaseReal]
    shared: Shared
    clips: dict[int, Clip]
    further_avatars: list[AvatarItem]
    io: Executor
    default_avatar: Avatar  # held, so that it stays loaded


HOUSE = web.AppKey("house", House)
SETTINGS = web.AppKey("settings", Settings)


# Live routes.


async def offer(request: web.Request) -> web.Response:
    """POST /offer: a new session for one WebRTC peer."""
    house = request.app[HOUSE]
    wish = parse(Offer, await read_json(request))
    check_offer(wish.sdp)
    choice = await _choose(house, wish)
    answers: list[str] = []
    real = await house.sessions.open(partial(_connect, house, choice, wish.sdp, answers))
    logger.info("session {} opened: avatar {}", real.id, choice.avatars[MAIN].id)
    return web.json_response(Answer(sdp=answers[0], sessionid=real.id).model_dump())


async def _choose(house: House, wish: Offer) -> Choice:
    """What the new session is to be; everything is loaded and checked before it takes a place."""
    settings = house.settings
    further = house.further_avatars if wish.multiavatar_config is None else wish.multiavatar_config
    avatars = {MAIN: await house.avatars.get(wish.avatar or settings.avatar_id)}
    for item in further:
        avatars[item.avatarid] = await house.avatars.get(item.avatarid)
    clips = house.clips
    if wish.custom_config is not None:
        clips = await _load_clips(house.io, wish.custom_config, settings.data_dir)
    wished = {"ref_file": wish.refaudio, "ref_text": wish.reftext}
    voice = voice_of(wished, Voice(settings.REF_FILE, settings.REF_TEXT))
    return Choice(avatars, clips, voice, wish.llmid)


async def _connect(house: House, choice: Choice, sdp: str, answers: list[str], session_id: int) -> BaseReal:
    """The session and its player, the offer answered; nothing is left behind if that fails."""
    settings = house.settings
    real = house.real(session_id, choice, house.shared)
    player = HumanPlayer(
        ice_servers=_ice_servers(settings),
        connect_timeout_s=settings.connect_timeout_s,
        dead_timeout_s=settings.dead_timeout_s,
        lost=partial(house.sessions.close_soon, session_id),
        request_key=real.request_key,
        events=real.events,
        heard=real.hear if house.shared.asr else None,
    )
    real.attach(player)
    try:
        answers.append(await player.answer(sdp))
    except BaseException:
        await real.aclose()
        raise
    return real


async def human(request: web.Request) -> web.Response:
    """POST /human: say a text, or answer it; answered at once."""
    message = parse(Human, await read_json(request))
    real = _session(request, message)
    voice = voice_of(message.tts, real.choice.voice)
    real.put_msg_txt(message.text, message.type, voice=voice, avatar=message.avatarid, interrupt=message.interrupt)
    return reply()


async def interrupt_talk(request: web.Request) -> web.Response:
    """POST /interrupt_talk: silence from the next tick on."""
    _session(request, parse(SessionMessage, await read_json(request))).flush_talk()
    return reply()


async def humanaudio(request: web.Request) -> web.Response:
    """POST /humanaudio: speak an audio file."""
    house = request.app[HOUSE]
    sound = bytearray()

    async def take(piece: bytes) -> None:
        sound.extend(piece)

    fields = await read_form(request, "file", MAX_AUDIO, take)
    real = house.sessions.get(session_id(fields.get("sessionid", "0")))
    if not sound:
        raise BadRequest("file: an audio file is required")
    pcm = await _in(house.io, decode_audio, bytes(sound))
    house.sessions.get(real.id).put_audio_file(pcm)
    return reply()


async def set_audiotype(request: web.Request) -> web.Response:
    """POST /set_audiotype: show a custom state."""
    message = parse(Audiotype, await read_json(request))
    if _session(request, message).set_custom_state(message.audiotype, reinit=message.reinit):
        return reply()
    warning = f"audiotype {message.audiotype} is not configured"
    if request.app[SETTINGS].strict or message.audiotype < 0:
        raise BadRequest(warning)
    return reply(warning=warning)


async def get_audiotype(request: web.Request) -> web.Response:
    """GET or POST /get_audiotype: the state shown, and those there are."""
    body = await read_json(request) if request.method == "POST" else json.dumps(dict(request.query)).encode()
    portrait = _session(request, parse(SessionMessage, body)).portrait
    return reply(portrait.audiotype, audiotype=portrait.audiotype, states=portrait.states)


async def is_speaking(request: web.Request) -> web.Response:
    """POST /is_speaking: whether speech is audible."""
    return reply(_session(request, parse(SessionMessage, await read_json(request))).is_speaking)


async def record(request: web.Request) -> web.Response:
    """POST /record: start or end a recording."""
    message = parse(Record, await read_json(request))
    real = _session(request, message)
    if message.type == "start_record":
        real.start_recording(request.app[SETTINGS].data_dir / "record")
    else:
        await real.stop_recording()
    return reply()


async def recording(request: web.Request) -> web.StreamResponse:
    """GET /record/{sessionid}: a finished recording, as mp4."""
    return _recorded(request, "mp4", "video/mp4")


async def captions(request: web.Request) -> web.StreamResponse:
    """GET /record/{sessionid}.vtt: what is said in it, as WebVTT."""
    return _recorded(request, "vtt", "text/vtt; charset=utf-8")


def _recorded(request: web.Request, suffix: str, content: str) -> web.StreamResponse:
    name = request.match_info["sessionid"]
    path = request.app[SETTINGS].data_dir / "record" / f"{name}.{suffix}"
    if not name.isdecimal() or not path.is_file():
        raise web.HTTPNotFound(reason="Record not found")
    disposition = f'attachment; filename="{name}.{suffix}"'
    return web.FileResponse(path, headers={"Content-Type": content, "Content-Disposition": disposition})


async def sse(request: web.Request) -> web.StreamResponse:
    """GET /sse?sessionid=: the session's events as they become true."""
    real = request.app[HOUSE].sessions.get(session_id(request.query.get("sessionid", "0")))
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    async with aclosing(real.events()) as events:
        pending = asyncio.ensure_future(anext(events))
        await response.prepare(request)
        try:
            while True:
                await asyncio.wait([pending], timeout=SSE_KEEPALIVE_S)
                if not pending.done():
                    await response.write(b": still here\n\n")
                    continue
                await response.write(f"data: {pending.result().as_json()}\n\n".encode())
                pending = asyncio.ensure_future(anext(events))
        except (StopAsyncIteration, ConnectionError):
            return response
        finally:
            pending.cancel()
            await asyncio.wait([pending])


async def history(request: web.Request) -> web.Response:
    """GET /api/history?sessionid=: the conversation as the presenter remembers it."""
    real = request.app[HOUSE].sessions.get(session_id(request.query.get("sessionid", "0")))
    return reply({"messages": real.history.messages})


async def close_session(request: web.Request) -> web.Response:
    """DELETE /session/{sessionid}: end a session."""
    sessions = request.app[HOUSE].sessions
    real = sessions.get(session_id(request.match_info["sessionid"]))
    await sessions.close(real.id, "deleted")
    return reply()


# What there is, and how it is.


async def avatars(request: web.Request) -> web.Response:
    """GET /api/avatars: the avatars an offer may name."""
    house = request.app[HOUSE]
    found = await _in(house.io, house.avatars.list)
    listed = [{"id": about.id, "title": about.title, "size": about.size} for about in found]
    return reply({"avatars": listed, "default": house.settings.avatar_id})


async def ice(request: web.Request) -> web.Response:
    """GET /api/webrtc: the ICE servers a client should use."""
    return reply({"iceServers": [_as_client_config(server) for server in _ice_servers(request.app[SETTINGS])]})


async def admin_config(request: web.Request) -> web.Response:
    """GET /api/admin/config: the settings, without secrets."""
    return reply({"config": request.app[SETTINGS].public()})


async def admin_sessions(request: web.Request) -> web.Response:
    """GET /api/admin/sessions: the live sessions."""
    house = request.app[HOUSE]
    return reply({"sessions": [_about(real, house) for real in house.sessions]})


def _about(real: BaseReal, house: House) -> dict[str, Any]:
    settings = house.settings
    return {
        "sessionid": real.id,
        "speaking": real.is_speaking,
        "recording": real.recording,
        "model": house.model,
        "avatar_id": real.choice.avatars[MAIN].id,
        "REF_FILE": real.choice.voice.name,
        "transport": settings.transport,
        "batch_size": settings.batch_size,
        "customopt": [{"audiotype": kind} for kind in sorted(real.choice.clips)],
    }


async def healthz(request: web.Request) -> web.Response:
    """GET /healthz: the process answers."""
    return reply()


async def readyz(request: web.Request) -> web.Response:
    """GET /readyz: it can take a session; 503 if it is shutting down or its inference has failed."""
    house = request.app[HOUSE]
    ready = house.shared.worker.healthy and not house.sessions.draining
    return reply() if ready else refusal("not ready", status=503)


async def metrics_page(request: web.Request) -> web.Response:
    """GET /metrics: Prometheus."""
    return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def openapi(request: web.Request) -> web.Response:
    """GET /openapi.json: this API."""
    token = bool(request.app[SETTINGS].api_token.get_secret_value())
    return web.json_response(describe(OPERATIONS, title="Vivace", version=VERSION, token=token))


async def page(request: web.Request) -> web.StreamResponse:
    """GET anything else: a file of `web/`."""
    name = request.match_info["name"]
    if request.path in ROUTES:
        raise web.HTTPMethodNotAllowed(request.method, sorted(ROUTES[request.path]))
    if "\0" in name:
        raise web.HTTPNotFound
    path = (WEB / PAGES.get(name, name)).resolve()
    if not path.is_relative_to(WEB.resolve()) or not path.is_file():
        raise web.HTTPNotFound
    return web.FileResponse(path, headers={"Cache-Control": "no-cache"})


_FORM = {"sessionid": {"type": "integer"}, "file": {"type": "string", "format": "binary"}}
_LIVE, _ABOUT = "live", "about"
API = [
    (offer, Operation("POST", "/offer", "Open a session for a WebRTC peer", _LIVE, Offer, Answer)),
    (human, Operation("POST", "/human", "Say a text, or answer it", _LIVE, Human)),
    (interrupt_talk, Operation("POST", "/interrupt_talk", "Be silent at once", _LIVE, SessionMessage)),
    (humanaudio, Operation("POST", "/humanaudio", "Speak an audio file, up to 100 MB", _LIVE, _FORM)),
    (set_audiotype, Operation("POST", "/set_audiotype", "Show a custom state", _LIVE, Audiotype)),
    (get_audiotype, Operation("GET", "/get_audiotype", "The state shown", _LIVE, query=("sessionid",))),
    (get_audiotype, Operation("POST", "/get_audiotype", "The state shown", _LIVE, SessionMessage)),
    (is_speaking, Operation("POST", "/is_speaking", "Whether speech is audible", _LIVE, SessionMessage)),
    (record, Operation("POST", "/record", "Start or end a recording", _LIVE, Record)),
    (captions, Operation("GET", "/record/{sessionid}.vtt", "Its captions", _LIVE, content="text/vtt")),
    (recording, Operation("GET", "/record/{sessionid}", "A finished recording", _LIVE, content="video/mp4")),
    (sse, Operation("GET", "/sse", "Events as they happen", _LIVE, content="text/event-stream", query=("sessionid",))),
    (history, Operation("GET", "/api/history", "The conversation so far", _LIVE, query=("sessionid",))),
    (close_session, Operation("DELETE", "/session/{sessionid}", "End a session", _LIVE)),
    (avatars, Operation("GET", "/api/avatars", "The avatars there are", _ABOUT)),
    *HEARING,
    *SPEECH,
    *STUDIO,
    (ice, Operation("GET", "/api/webrtc", "ICE servers for clients", _ABOUT)),
    (admin_config, Operation("GET", "/api/admin/config", "Settings, without secrets", _ABOUT)),
    (admin_sessions, Operation("GET", "/api/admin/sessions", "Live sessions", _ABOUT)),
    (healthz, Operation("GET", "/healthz", "The process answers", _ABOUT)),
    (readyz, Operation("GET", "/readyz", "It can take a session", _ABOUT)),
    (metrics_page, Operation("GET", "/metrics", "Prometheus", _ABOUT, content="text/plain")),
    (openapi, Operation("GET", "/openapi.json", "This document", _ABOUT)),
]
OPERATIONS = [operation for _, operation in API]
ROUTES: dict[str, set[str]] = {}
for _operation in OPERATIONS:
    ROUTES.setdefault(_operation.path, set()).add(_operation.method)


# Reading requests.


def _session(request: web.Request, message: SessionMessage) -> BaseReal:
    return request.app[HOUSE].sessions.get(session_id(message.sessionid))


async def _in(pool: Executor, function: Callable[..., T], *args: Any) -> T:
    """`function(*args)`, which blocks, in `pool`."""
    return await asyncio.get_running_loop().run_in_executor(pool, function, *args)


# Putting the house together.


def make_app(settings: Settings) -> web.Application:
    """The whole server as an aiohttp application; it starts and stops everything it needs with itself."""

    def route_of(request: web.Request) -> str:
        resource = request.match_info.route.resource
        return resource.canonical if resource and resource.canonical in ROUTES else ""

    app = web.Application(
        client_max_size=MAX_AUDIO,
        middlewares=[
            render_errors(route_of),
            allow_cross_origin(),
            require_token(settings.api_token.get_secret_value(), route_of),
            limit_rate(dict.fromkeys(("/offer", "/api/voices/preview", "/asr"), settings.offer_rate)),
        ],
    )
    app[SETTINGS] = settings
    for handler, operation in API:
        app.router.add_route(operation.method, operation.path, handler)
    app.router.add_get("/{name:.*}", page)
    app.on_response_prepare.append(add_headers)
    app.on_shutdown.append(_drain)
    app.cleanup_ctx.append(_house)
    return app


async def _drain(app: web.Application) -> None:
    """First step of a shutdown: nobody gets in, speech ends, sessions close, and with them their event streams."""
    await app[HOUSE].sessions.drain(app[SETTINGS].drain_s)
    await app[DICTATION].aclose()


async def _house(app: web.Application) -> AsyncIterator[None]:
    """Start everything, top to bottom; after the drain stop it, bottom to top."""
    settings = app[SETTINGS]
    io = ThreadPoolExecutor(4, "io")
    compose = ThreadPoolExecutor(max(2, os.cpu_count() or 2), "compose")
    model, real, engine = await _in(io, _make_engine, settings)
    engine.max_batch = min(engine.max_batch, settings.batch_size)
    avatars = Avatars(settings.data_dir / "avatars", io)
    loops = IdleLoops(settings.bitrate, io)
    default_avatar = await avatars.get(settings.avatar_id)
    loops.get(default_avatar)
    set_bitrate(loops.bitrate(default_avatar.size))
    cv2.setNumThreads(1)  # sessions run side by side; threads inside one picture would only fight
    clips = await _load_clips(io, _read_list(settings.customvideo_config, CLIP_LIST), None)
    tts: BaseTTS = TTS.load(settings.tts)(_voice_settings(settings))
    await tts.start()
    app[VOICES] = Voices(tts, io)
    profiles = read_profiles(settings.llm_profiles)
    minds = make_minds(_make_llm(settings), profiles, settings.data_dir / "knowledge", io)
    await minds.start()
    asr = await _make_asr(settings)
    app[DICTATION] = Dictation(asr or NoASR(), io)
    smart_turn = await _in(io, find_smart_turn, settings.models_dir) if asr else None
    worker = InferenceWorker(settings.device)
    sessions = Sessions(settings.max_session, settings.idle_timeout_s)
    reaper = asyncio.create_task(sessions.reap())
    further = _read_list(settings.multiavatar_config, AVATAR_LIST)
    shared = Shared(engine, worker, loops, tts, minds, compose, settings, asr, smart_turn)
    app[TASKS] = tasks = Tasks(settings, {"wav2lip", "musetalk"} & {*ENGINES.names()}, io)
    await tasks.start()
    app[HOUSE] = House(settings, sessions, avatars, model, real, shared, clips, further, io, default_avatar)
    yield
    await tasks.aclose()
    reaper.cancel()
    await asyncio.wait([reaper])
    await tts.aclose()
    await minds.aclose()
    if asr:
        await asr.aclose()
    await asyncio.to_thread(worker.stop)
    compose.shutdown()
    io.shutdown()


def _make_engine(settings: Settings) -> tuple[str, type[BaseReal], Engine]:
    """The name and family of `--model`, and its engine; `auto` is wav2lip, or still if that cannot load. Blocking."""
    auto = settings.model == "auto"
    name = "wav2lip" if auto else settings.model
    real: type[BaseReal] = ENGINES.load(name)
    try:
        return name, real, real.make_engine(settings)
    except BadRequest as error:
        if not auto:
            raise
        logger.warning("lips are warped, not drawn: {}", error)
        return _make_engine(settings.model_copy(update={"model": "still"}))


async def _load_clips(io: Executor, items: list[ClipItem], within: Path | None) -> dict[int, Clip]:
    clips = [await _in(io, load_clip, item, within) for item in items]
    return {clip.audiotype: clip for clip in clips}


def _read_list(file: str, kind: TypeAdapter[list[T]]) -> list[T]:
    """The list in a JSON file that the operator named; empty without one. BadRequest if it is not such a list."""
    try:
        return kind.validate_json(Path(file).read_bytes()) if file else []
    except (OSError, ValueError) as error:
        raise BadRequest(f"{file} is not a readable JSON list of the documented form") from error


def _voice_settings(settings: Settings) -> VoiceSettings:
    return VoiceSettings(
        default_voice=settings.REF_FILE,
        ref_text=settings.REF_TEXT,
        server=settings.TTS_SERVER,
        timeout_s=settings.tts_timeout_s,
        voices=settings.data_dir / "voices",
        models=settings.models_dir,
    )


def _make_llm(settings: Settings) -> BaseLLM:
    """The language model of `--llm`; `auto` takes DashScope or OpenAI if there is a key, else the rules."""
    dashscope = settings.dashscope_api_key.get_secret_value()
    key = dashscope or settings.openai_api_key.get_secret_value()
    base_url = settings.llm_base_url or (DASHSCOPE if dashscope else "")
    model = settings.llm_model or ("qwen-plus" if dashscope else "gpt-4o-mini")
    about = LLMSettings(key, base_url, model, settings.llm_prompt or SYSTEM_PROMPT, settings.llm_timeout_s)
    chosen: BaseLLM = make_llm(about) if settings.llm == "auto" else LLM.load(settings.llm)(about)
    return chosen


async def _make_asr(settings: Settings) -> BaseASR | None:
    """What listens, ready; None if it is off, or `auto` finds no model. BadRequest if what was named cannot start."""
    if settings.asr == "off":
        return None
    about = ASRSettings(
        model=settings.asr_model,
        device=settings.device,
        language=settings.asr_language,
        server=settings.ASR_SERVER,
        timeout_s=settings.asr_timeout_s,
        models=settings.models_dir,
    )
    asr: BaseASR = ASR.load(settings.asr)(about)
    try:
        await asr.start()
    except EngineFailed as error:
        await asr.aclose()
        if settings.asr != "auto":
            raise BadRequest(str(error)) from error
        logger.info("microphones are not listened to: {}", error)
        return None
    logger.info("microphones are listened to by {}", type(asr).__name__)
    return asr


def _ice_servers(settings: Settings) -> list[IceServer]:
    servers = [IceServer(settings.stun)] if settings.stun else []
    if settings.turn:
        servers.append(IceServer(settings.turn, settings.turn_username, settings.turn_credential.get_secret_value()))
    return servers


def _as_client_config(server: IceServer) -> dict[str, str]:
    named = {"urls": server.url, "username": server.username, "credential": server.credential}
    return {key: value for key, value in named.items() if value}


def main() -> None:
    """Serve until told to stop; told again while it stops, leave at once."""
    settings = read_settings()
    log.set_up(settings.log_level, settings.log_file)

    def serving(_: str) -> None:
        logger.info("Vivace {} is ready: open http://127.0.0.1:{}", VERSION, settings.listenport)

    try:
        web.run_app(make_app(settings), host=settings.host, port=settings.listenport, print=serving, access_log=None)
    except (VivaceError, OSError, ModuleNotFoundError) as error:
        raise SystemExit(f"Vivace cannot start: {error}") from error
    except (web.GracefulExit, KeyboardInterrupt):
        logger.warning("told again to stop: leaving at once")
        os._exit(1)  # threads that nobody ends any more would keep the process


if __name__ == "__main__":
    main()
