"""Whatever a phone makes becomes 25 upright pictures a second, and nothing but the file itself is opened."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile

from core.errors import BadMedia
from core.media import Image
from studio.film import Film
from tests.fakes.films import turn_mp4, write_film


def numbered(n: int) -> list[Image]:
    """Pictures with a white bar that stands as far to the right as their number says."""
    images = [np.zeros((64, 256, 3), np.uint8) for _ in range(n)]
    for number, image in enumerate(images):
        image[:, 4 * number : 4 * number + 4] = 255
    return images


def number(image: Image) -> int:
    return int(image.mean(axis=(0, 2)).reshape(-1, 4).sum(axis=1).argmax())


def marked() -> Image:
    """Wide, and white in its upper left corner."""
    image = np.zeros((96, 160, 3), np.uint8)
    image[:48, :40] = 255
    return image


@pytest.mark.parametrize("name", ["film.mp4", "film.mov", "film.mkv", "film.avi", "film.ts"])
def test_25_pictures_a_second_stay_as_they_are(tmp_path: Path, name: str) -> None:
    film = Film(write_film(tmp_path / name, numbered(20)), 60)
    assert [number(image) for image in film] == list(range(20))


@pytest.mark.parametrize(("rate", "n"), [(5, 5), (24, 24), (30, 30), (50, 50), (60, 60)])
def test_each_picture_is_the_nearest_in_time(tmp_path: Path, rate: int, n: int) -> None:
    film = Film(write_film(tmp_path / "film.mkv", numbered(n), rate), 60)
    shown = [number(image) / rate for image in film]
    assert len(shown) == pytest.approx(25 * (n - 1) / rate + 1, abs=0.6)
    assert all(abs(at - tick / 25) < 0.5 / rate + 0.002 for tick, at in enumerate(shown[:-1]))


def test_a_picture_that_is_shown_twice_is_the_same_object(tmp_path: Path) -> None:
    images = list(Film(write_film(tmp_path / "film.mp4", numbered(3), rate=5), 60))
    assert len(images) > 10 and len({id(image) for image in images}) == 3


def test_a_film_can_be_watched_again(tmp_path: Path) -> None:
    film = Film(write_film(tmp_path / "film.mp4", numbered(7)), 60)
    assert np.array_equal(np.stack(list(film)), np.stack(list(film)))


def test_only_the_beginning_of_a_long_film_is_read(tmp_path: Path) -> None:
    film = Film(write_film(tmp_path / "film.mp4", numbered(30)), 0.4)
    assert len(list(film)) == film.expected == 10
    assert film.whole_s == pytest.approx(1.2)


def test_a_phone_held_upright_is_turned(tmp_path: Path) -> None:
    path = write_film(tmp_path / "film.mp4", [np.rot90(marked())] * 3)
    turn_mp4(path)
    film = Film(path, 60)
    assert film.size == (160, 96)
    assert abs(next(iter(film)).astype(int) - marked()).mean() < 5


def test_a_large_film_is_made_smaller_and_an_odd_one_even(tmp_path: Path) -> None:
    large = Film(write_film(tmp_path / "large.mp4", [np.zeros((360, 2400, 3), np.uint8)]), 60)
    assert large.size == (1920, 288)
    cv2.imwrite(str(tmp_path / "odd.png"), np.zeros((51, 77, 3), np.uint8))
    odd = Film(tmp_path / "odd.png", 60)
    assert odd.size == (76, 50) and next(iter(odd)).shape == (50, 76, 3)


@pytest.mark.parametrize("name", ["photo.png", "photo.jpg", "photo.webp"])
def test_a_photograph_is_a_film_of_one_picture(tmp_path: Path, name: str) -> None:
    cv2.imwrite(str(tmp_path / name), marked())
    (image,) = Film(tmp_path / name, 60)
    assert abs(image.astype(int) - marked()).mean() < 5


def test_a_damaged_middle_does_not_end_the_film(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = write_film(tmp_path / "film.ts", rng.integers(0, 255, (30, 64, 64, 3), np.uint8))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    path.write_bytes(data)
    assert len(list(Film(path, 60))) > 15


def test_a_truncated_film_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = write_film(tmp_path / "film.ts", np.random.default_rng(0).integers(0, 255, (30, 64, 64, 3), np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 5 < len(list(Film(path, 60))) < 25


def bomb() -> bytes:
    """A PNG of 30 000 by 30 000 in 100 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(3751) * 30_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


RUBBISH = {
    "empty.mp4": b"",
    "text.mp4": b"This is not a film.\n" * 50,
    "noise.mp4": np.random.default_rng(0).bytes(20_000),
    "bomb.png": bomb(),
    "list.ffconcat": b"ffconcat version 1.0\nfile 'film.mp4'\n",
    "list.m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfilm.ts\n#EXT-X-ENDLIST\n",
    "call.sdp": b"v=0\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
}


@pytest.mark.parametrize("name", RUBBISH)
def test_what_is_no_film_is_refused(tmp_path: Path, name: str) -> None:
    write_film(tmp_path / "film.mp4", numbered(5))
    write_film(tmp_path / "film.ts", numbered(5))
    (tmp_path / name).write_bytes(RUBBISH[name])
    with pytest.raises(BadMedia, match="no pictures that can be decoded"):
        Film(tmp_path / name, 60)


def test_a_sound_is_no_film(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "sound.wav", np.zeros(16_000), 16_000)
    with pytest.raises(BadMedia):
        Film(tmp_path / "sound.wav", 60)


def test_a_name_is_a_file_and_never_an_address_or_a_pattern(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), marked())
    for name in ("%d.png", "http:/127.0.0.1/film.mp4", "concat:1.png|1.png"):
        with pytest.raises(BadMedia):
            Film(tmp_path / name, 60)
