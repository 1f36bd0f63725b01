"""IndexTTS2: a voice after a reference, from the web page that comes with the model, over the HTTP side of Gradio.

The page describes its own call, so what a release adds to it takes the page's defaults. Nothing streams.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp

from core.errors import EngineFailed
from core.media import Voice
from core.voices import Reference
from tts.http import HttpTTS
from tts.post import recording
from tts.sound import SoundStream, WordTimes
from ttsreal import Speech

CALL = "gen_single"
REFERENCE, TEXT = "prompt", "text"  # what the call names them
RATE_HZ = 22_050
_STRANGE = "the speech server is not an IndexTTS2 page"


class IndexTTS2(HttpTTS):
    """Speaks like the reference that `voice.name`, or else the settings' voice, is the id of.

    The first sound comes when the sentence is complete: `timeout_s` must be longer than the slowest one takes.
    """

    async def stream(self, text: str, voice: Voice) -> AsyncIterator[Speech]:
        wish = {REFERENCE: await self._upload(self._speaker(voice)), TEXT: text}
        path = await self._call([wish.get(name, default) for name, default in await self._parameters()])
        sound, words = SoundStream(RATE_HZ), WordTimes(text)
        async with self.request("GET", self.address(f"/gradio_api/file={quote(path)}"), allow_redirects=False) as file:
            async for data in file.content.iter_any():
                pcm = sound.push(data)
                yield Speech(pcm, words.push(pcm))
        pcm = sound.finish()
        yield Speech(pcm, words.finish(pcm))

    def _speaker(self, voice: Voice) -> Reference:
        reference = self.reference(voice)
        if not reference:
            raise EngineFailed("IndexTTS2 needs a reference voice")
        return reference

    async def _upload(self, reference: Reference) -> dict[str, object]:
        """The reference as the page takes files: by the path that it was given there."""
        form = aiohttp.FormData()
        form.add_field("files", await recording(reference), filename="reference.wav", content_type="audio/wav")
        paths = await self._json("POST", "/gradio_api/upload", data=form)
        try:
            return {"path": str(paths[0]), "orig_name": "reference.wav", "meta": {"_type": "gradio.FileData"}}
        except (LookupError, TypeError) as error:
            raise EngineFailed(_STRANGE) from error

    async def _parameters(self) -> list[tuple[str, object]]:
        """The names of what the call takes, in order, with the defaults: None where there is none."""
        page = await self._json("GET", "/gradio_api/info")
        try:
            parameters = page["named_endpoints"][f"/{CALL}"]["parameters"]
            found = [(str(each["parameter_name"]), each.get("parameter_default")) for each in parameters]
        except (LookupError, TypeError, AttributeError) as error:
            raise EngineFailed(_STRANGE) from error
        if not {REFERENCE, TEXT} <= {name for name, _ in found}:
            raise EngineFailed(_STRANGE)
        return found

    async def _call(self, data: list[object]) -> str:
        """Where on the server the sound is that the call has made of `data`."""
        call = f"/gradio_api/call/{CALL}"
        answer = await self._json("POST", call, json={"data": data})
        event_id = answer.get("event_id") if isinstance(answer, dict) else None
        async with self.request("GET", self.address(f"{call}/{quote(str(event_id), safe='')}"), sound=False) as events:
            try:
                return await _result(events.content)
            except (ValueError, RecursionError) as error:
                raise EngineFailed(_STRANGE) from error

    async def _json(self, method: str, path: str, **options: Any) -> Any:
        async with self.request(method, self.address(path), sound=False, **options) as answer:
            body = await answer.read()
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise EngineFailed(_STRANGE) from error


async def _result(lines: AsyncIterable[bytes]) -> str:
    """Where the sound is, from the events of a call. ValueError if these are no such events."""
    event = ""
    async for line in lines:
        field, _, value = line.decode(errors="replace").rstrip().partition(": ")
        if field == "data" and event == "error":
            raise EngineFailed("the speech server could not say this")
        if field == "data" and event == "complete":
            return _path(value)
        event = value if field == "event" else event
    raise EngineFailed("the speech server broke off")


def _path(data: str) -> str:
    """The path of the one file that a call gives: as such, or in an update of the page that shows it."""
    try:
        result = json.loads(data)[0]
        return str(result.get("value", result)["path"])
    except (LookupError, TypeError, AttributeError) as error:
        raise EngineFailed(_STRANGE) from error
