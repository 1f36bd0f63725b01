"""Voices that somebody brought: a reference each, named by id in one folder, never by a client's path.

`<root>/<id>/` holds `voice.json` (see `About`), `reference.wav` (16-bit mono, what the voice was heard saying) and,
if one was made, `kokoro.npy` (float32 (510, 1, 256), a style for the Kokoro engine).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import BadMedia

VOICE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
ABOUT, SOUND, STYLE = "voice.json", "reference.wav", "kokoro.npy"


class About(BaseModel):
    """`voice.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = 1
    title: str = Field("", max_length=100)
    text: str = Field("", max_length=2000, description="what the reference says")
    language: str = Field("", max_length=16, description="zh, en, …; empty: not known")
    consent: str = Field("", max_length=500, description="the statement under which it was brought")
    made: str = Field("", max_length=40, description="when, ISO 8601")
    likeness: float | None = Field(None, description="cosine of the speaker embeddings, if a style was made")


@dataclass(frozen=True, slots=True)
class Reference:
    """A voice that there is: its folder, and what is said about it."""

    id: str
    folder: Path
    about: About

    @property
    def sound(self) -> Path:
        """The WAV file, 16-bit mono."""
        return self.folder / SOUND

    @property
    def style(self) -> Path | None:
        """The style for Kokoro, or None if none was made."""
        path = self.folder / STYLE
        return path if path.is_file() else None


def find_voice(root: Path, name: str) -> Reference | None:
    """The voice called `name` in `root`, or None if that is no id or there is none. BadMedia if it is damaged."""
    folder = root / name
    if not VOICE_ID.fullmatch(name) or not (folder / SOUND).is_file():
        return None
    try:
        about = About.model_validate(json.loads((folder / ABOUT).read_bytes()))
    except (OSError, ValueError, ValidationError) as error:
        raise BadMedia(f"voice '{name}' is damaged") from error
    return Reference(name, folder, about)


def list_voices(root: Path) -> Iterator[Reference]:
    """Every voice in `root` that is whole, by id."""
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        try:
            voice = find_voice(root, folder.name)
        except BadMedia:
            continue
        if voice:
            yield voice
