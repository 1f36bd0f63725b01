"""What clients send and get, as pydantic models: the edge of the LiveTalking API."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from core.avatar import ClipItem
from core.errors import BadRequest, UnknownSession
from core.media import Voice

M = TypeVar("M", bound=BaseModel)

MAX_TEXT = 20_000
MAX_CLIPS = 16
MAX_AVATARS = 8
VOICE_NAME = re.compile(r"[\w][\w.:() -]{0,127}")


def session_id(value: object) -> int:
    """A session id as clients write it: an integer, digits, or an integral float. UnknownSession otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise UnknownSession("session not found")
    try:
        if isinstance(value, float) and not value.is_integer():
            raise ValueError
        return int(value)
    except ValueError:
        raise UnknownSession("session not found") from None


def _whole(value: object) -> object:
    """Digits and booleans count as integers."""
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,9}\s*", value):
        return int(value)
    return int(value) if isinstance(value, bool) else value


def _numbers(value: object) -> object:
    """A list of numbers may come as text with blanks or commas between them."""
    return re.split(r"[\s,]+", value.strip(" [],")) if isinstance(value, str) else value


def _from_json(value: object) -> object:
    """A list or object may come as JSON text; empty text is as if it were missing."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.strip() else None


SessionId = Annotated[
    Any, Field(description="as returned by /offer; digits are accepted", json_schema_extra={"type": "integer"})
]
Whole = Annotated[int, BeforeValidator(_whole)]


class Message(BaseModel):
    """Fields we do not know are ignored, as every server of this family does."""

    model_config = ConfigDict(extra="ignore", str_max_length=1_000_000)


class AvatarItem(Message):
    avatarid: str


class Offer(Message):
    """A WebRTC offer, and what the new session is to be."""

    sdp: str
    type: Literal["offer"]
    avatar: str = Field("", description="avatar id; default: the server's avatar_id")
    refaudio: str = Field("", description="voice name or reference id; default: the server's REF_FILE")
    reftext: str = Field("", description="what the reference says; default: the server's REF_TEXT")
    llmid: str = Field("", description="which of the server's llm_profiles to chat with")
    custom_config: Annotated[list[ClipItem] | None, BeforeValidator(_from_json)] = Field(
        None, max_length=MAX_CLIPS, description="custom states, a list or its JSON text"
    )
    multiavatar_config: Annotated[list[AvatarItem] | None, BeforeValidator(_from_json)] = Field(
        None, max_length=MAX_AVATARS, description="further avatars that messages may choose, a list or its JSON text"
    )


class SessionMessage(Message):
    sessionid: SessionId = 0


class Human(SessionMessage):
    """Something to say (echo) or to answer (chat)."""

    type: Literal["echo", "chat"]
    text: str = Field(max_length=MAX_TEXT)
    interrupt: bool = False
    avatarid: str = Field("main", description="one of the session's multiavatar_config")
    tts: Annotated[dict[str, Any] | None, BeforeValidator(_from_json)] = Field(
        None, description="ref_file, ref_text and an engine's further wishes; an object or its JSON text"
    )


class Audiotype(SessionMessage):
    """A custom state to show: 0 the live avatar, 1 silent, 2 and above as configured."""

    audiotype: Whole
    reinit: bool = Field(True, description="from the start; false: from where it was left")


class Record(SessionMessage):
    type: Literal["start_record", "end_record"]


class AvatarTask(Message):
    """A video to make an avatar of: uploaded in the field `video_file`, or there already.

    What only steers how other servers find and cut faces is checked and has no effect.
    """

    model_config = ConfigDict(coerce_numbers_to_str=True)

    model: Literal["wav2lip", "musetalk"]
    avatar_id: str = Field(max_length=64, description="letters, digits, '_', '-' and '.'; one that there is not yet")
    video_path: str = Field("", max_length=1000, description="a video in the server's data folder, if none is uploaded")
    title: str = Field(
        "", max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$", description="what people read; default: the id"
    )
    task_id: str = Field("", pattern=r"^([A-Za-z0-9][A-Za-z0-9_-]{0,63})?$", description="default: one is made up")
    notifyurl: str = Field("", max_length=1000, description="told by POST how the task fares; only on allowed hosts")
    img_size: Whole = Field(256, ge=32, le=1024, description="no effect")
    pads: Annotated[list[Whole], BeforeValidator(_numbers)] = Field(
        [0, 10, 0, 0], min_length=4, max_length=4, description="no effect; a list, or text such as '0 10 0 0'"
    )
    nosmooth: bool = Field(False, description="no effect")
    face_det_batch_size: Whole = Field(16, ge=1, le=1024, description="no effect")
    bbox_shift: Whole = Field(0, ge=-1000, le=1000, description="no effect")
    extra_margin: Whole = Field(10, ge=0, le=1000, description="no effect")
    parsing_mode: Literal["jaw", "neck", "raw"] = Field("jaw", description="no effect")
    version: Literal["v1", "v15"] = Field("v15", description="no effect")


class Reply(BaseModel):
    """Every answer: `code` 0 with `data`, or -1 with what is wrong in `msg`."""

    code: int = 0
    msg: str = "ok"
    data: Any = "ok"


class Answer(BaseModel):
    sdp: str
    type: Literal["answer"] = "answer"
    sessionid: int


class Preview(Message):
    """A voice to be tried."""

    voice: str = Field("", description="one of /api/voices; default: the server's")
    text: str = Field("", max_length=200, description="what to say; default: a greeting")


def voice_of(wishes: dict[str, Any] | None, default: Voice | None = None) -> Voice:
    """The voice that a message's `tts` asks for. BadRequest if it names a path instead of a voice."""
    wishes, default = dict(wishes or {}), default or Voice()
    wish = str(wishes.pop("ref_file", "") or wishes.pop("voice", ""))
    if wish and not VOICE_NAME.fullmatch(wish):
        raise BadRequest("ref_file is a voice's name or a reference's id, not a path")
    name = wish or default.name
    usual = default.ref_text if name == default.name else ""  # another reference says something else
    return Voice(name, str(wishes.pop("ref_text", "") or usual), wishes)


def parse(model: type[M], body: bytes) -> M:
    """`body`, JSON text, as `model`. BadRequest saying which field is wrong; the client's values are not repeated."""
    try:
        return model.model_validate(json.loads(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise BadRequest(f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}") from None
    except (ValueError, RecursionError):
        raise BadRequest("the body is not valid JSON") from None


CLIP_LIST = TypeAdapter(list[ClipItem])
AVATAR_LIST = TypeAdapter(list[AvatarItem])
