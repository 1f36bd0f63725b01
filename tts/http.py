"""What speech engines behind HTTP share: one client session, and clear errors."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp

from core.errors import EngineFailed
from ttsreal import BaseTTS, VoiceSettings

KEEP_ALIVE_S = 4  # common servers hang up on an idle connection after 5


class HttpTTS(BaseTTS):
    """An engine that asks a server: one client session, which is one pool of connections, made on first use."""

    def __init__(self, settings: VoiceSettings | None = None) -> None:
        super().__init__(settings)
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def request(
        self, method: str, url: str, *, sound: bool = True, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer, its body still to be read; leaving early hangs up. `options`: those of `ClientSession.request`.

        EngineFailed, here and while reading, if the server cannot be reached, refuses, gives nothing for `timeout_s`
        or breaks off; and if it sends a page or JSON, unless `sound` is not what was asked for.
        """
        with clear_errors():
            async with self.session().request(method, url, **options) as response:
                wordy = response.content_type.startswith("text/") or response.content_type.endswith("json")
                if response.status // 100 != 2 or (sound and wordy):
                    raise EngineFailed(f"the speech server {refusal(response.status)}")
                yield response

    def session(self) -> aiohttp.ClientSession:
        """The one session, for what `request` does not do, such as WebSockets. On the loop only."""
        if self._session is None:
            wait_s = self.settings.timeout_s
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=wait_s, sock_read=wait_s)
            line = aiohttp.TCPConnector(keepalive_timeout=KEEP_ALIVE_S)
            self._session = aiohttp.ClientSession(connector=line, timeout=timeout, trust_env=True)
        return self._session

    def address(self, path: str) -> str:
        """The URL of `path` ("/tts") on the settings' server. EngineFailed if that is not an http or https URL."""
        if not re.match(r"https?://[\w\[]", self.settings.server):
            raise EngineFailed("the speech server's address must begin with http:// or https://")
        return self.settings.server.rstrip("/") + path

    async def aclose(self) -> None:
        if self._session:
            await self._session.close()


@contextmanager
def clear_errors() -> Iterator[None]:
    """Whatever goes wrong on the line, as EngineFailed."""
    try:
        yield
    except TimeoutError as error:
        raise EngineFailed("the speech server did not answer in time") from error
    except (aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
        raise EngineFailed("the speech server could not be reached") from error
    except (aiohttp.ClientError, OSError) as error:
        raise EngineFailed("the speech server broke off") from error
    except UnicodeError as error:
        raise EngineFailed("the text has characters that cannot be sent") from error


def refusal(status: int) -> str:
    """What the speech server did, in words, that answered with `status`."""
    if status in {401, 403}:
        return "refused the key"
    return "is overloaded" if status in {429, 503} else "answered with an error"
