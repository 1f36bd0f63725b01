"""The tree of errors a client may see.

    VivaceError                 code            HTTP where the dialect has status codes
    ├── BadRequest              bad_request     400
    │   ├── UnknownAvatar       unknown_avatar  404
    │   └── BadMedia            bad_media       400   a file that does not decode, or is too long
    ├── UnknownSession          unknown_session 404
    ├── Overloaded              overloaded      503   `reach max session`, a full queue, a rate limit
    ├── Unauthorized            unauthorized    401
    └── EngineFailed            engine_failed   502   a TTS, LLM or face engine that did not answer

`str(error)` is written for clients: never a path, a secret, or another exception's text.
"""

from __future__ import annotations


class VivaceError(Exception):
    code = "error"
    status = 500


class BadRequest(VivaceError):
    code = "bad_request"
    status = 400


class UnknownAvatar(BadRequest):
    code = "unknown_avatar"
    status = 404


class BadMedia(BadRequest):
    code = "bad_media"


class UnknownSession(VivaceError):
    code = "unknown_session"
    status = 404


class Overloaded(VivaceError):
    code = "overloaded"
    status = 503


class Unauthorized(VivaceError):
    code = "unauthorized"
    status = 401


class EngineFailed(VivaceError):
    code = "engine_failed"
    status = 502
