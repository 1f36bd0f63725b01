"""Logs: console and, if asked for, a rotating file. What a user said is never logged; a request id always is."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

if TYPE_CHECKING:
    from loguru import Record

request_id: ContextVar[str] = ContextVar("request_id", default="-")

FORMAT = "<green>{time:HH:mm:ss.SSS}</green> <level>{level: <7}</level> {extra[request]} {name}: {message}"


def set_up(level: str, file: Path | None = None) -> None:
    """Send this process's logs, those of the libraries included, to stderr and to `file` (rotated at 20 MB, 5 kept)."""
    logger.remove()
    logger.configure(patcher=_add_request_id)
    logger.add(sys.stderr, level=level, format=FORMAT, diagnose=False)
    if file:
        logger.add(file, level=level, format=FORMAT, rotation="20 MB", retention=5, enqueue=True, diagnose=False)
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)
    logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)  # its warning quotes protocols, which hold tokens


def _add_request_id(record: Record) -> None:
    record["extra"].setdefault("request", request_id.get())


class _Forward(logging.Handler):
    """Hands the standard library's records over."""

    def emit(self, record: logging.LogRecord) -> None:
        logger.opt(exception=record.exc_info).log(record.levelname, "{}: {}", record.name, record.getMessage())
