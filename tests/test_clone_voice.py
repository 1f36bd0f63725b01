"""A voice is made of a recording whole or not at all, comes as near as its candidates do, and asks for consent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import wave
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from core.audio import decode_audio
from core.errors import BadMedia, BadRequest, EngineFailed
from core.media import Pcm
from core.voices import find_voice, list_voices
from nets.speaker import Likeness
from studio import clone_voice, voices
from studio.clone_voice import Report, Voicebox, Wish, clone, kokoro, main
from studio.voices import STYLE_SHAPE, Bank, Style, Weights, listen, walk
from tests.conftest import SHARED

ROOT = Path(__file__).parent.parent
MODELS = ROOT / "models"
SPEECH = SHARED / "data" / "speech"
CONSENT = "Synthetic speech: it is nobody's voice."
NAMES = ("af_one", "am_two", "zf_three", "zm_four")

pytestmark = pytest.mark.skipif(not SPEECH.is_dir(), reason="needs ../shared/data/speech")


def sound(*numbers: int) -> Pcm:
    """Some 5 s of synthetic speech each, 16 kHz."""
    return np.concatenate([decode_audio(SPEECH / f"{number:04d}.opus") for number in numbers])


def write(path: Path, pcm: Pcm, rate_hz: int = 16_000) -> Path:
    soundfile.write(path, pcm, rate_hz, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("reference") / "ref.wav", sound(73))


@pytest.fixture
def wish(reference: Path, tmp_path: Path) -> Wish:
    return Wish(reference, "me", CONSENT, title="Me", text="他慢慢地推开木门", language="zh", root=tmp_path / "voices")


class Studio:
    """Four voices in two dimensions of the styles; what a style says resembles what it is mixed of.

    The recording is three quarters the first voice and a quarter the third.
    """

    def __init__(self) -> None:
        rows = np.eye(4, 256, dtype=np.float32)
        styles = np.stack([np.full(STYLE_SHAPE, row, np.float32) for row in range(4)])
        styles[:, 0, 0, :4] = np.eye(4)
        self.whose = np.array([0.75, 0, 0.25, *[0] * 253], np.float32) / np.float32(np.sqrt(0.625))
        self.speech = sound(50)
        self.said: list[tuple[Style, str]] = []
        self.box = Voicebox(Bank(NAMES, rows, styles), self.embed, self.say)

    def embed(self, pcm: Pcm) -> Likeness:
        if not self.said:
            return self.whose
        mixed = self.said[-1][0][0, 0, :256] * (np.arange(256) < 4)
        return np.asarray(mixed / np.linalg.norm(mixed), np.float32)

    def say(self, style: Style, text: str) -> Pcm:
        self.said.append((style, text))
        return self.speech


@pytest.fixture
def studio() -> Studio:
    return Studio()


def quiet(progress: int, stage: str) -> None:
    """Hears nothing of how far it is."""


def test_a_voice_is_a_reference_a_style_and_what_is_said_about_it(wish: Wish, studio: Studio) -> None:
    report = clone(wish, studio.box, quiet)
    voice = find_voice(wish.root, "me")
    assert voice and voice.style
    with wave.open(str(voice.sound)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 24_000)
        assert file.getnframes() / 24_000 == pytest.approx(5.5, abs=0.6)
    style = np.load(voice.style, allow_pickle=False)
    assert (style.shape, style.dtype) == (STYLE_SHAPE, np.float32)
    assert (voice.about.title, voice.about.text, voice.about.language) == ("Me", "他慢慢地推开木门", "zh")
    assert voice.about.consent == CONSENT
    assert voice.about.likeness == report.tried[report.kept]
    assert voice.about.made.endswith("+00:00")


def test_the_blend_is_kept_where_it_is_nearer_than_every_preset(wish: Wish, studio: Studio) -> None:
    report = clone(wish, studio.box, quiet)
    assert report.kept == "blend"
    assert report.mixture == {"af_one": 0.75, "zf_three": 0.25}
    assert report.tried["preset af_one"] == pytest.approx(0.75 / np.sqrt(0.625), abs=1e-3)
    assert report.tried["blend"] == pytest.approx(1, abs=1e-3)
    assert report.presets == pytest.approx(0.25 / np.sqrt(0.625), abs=1e-3)


def test_the_preset_is_kept_where_the_blend_only_promised_more(wish: Wish, studio: Studio) -> None:
    def say(style: Style, text: str) -> Pcm:
        spoilt = style.copy()
        if style[0, 0, 0] != 1:
            spoilt[0, 0, 1] = 5
        return studio.say(spoilt, text)

    report = clone(wish, replace(studio.box, say=say), quiet)
    assert report.kept == "preset af_one"
    style = np.load(wish.root / "me" / "kokoro.npy", allow_pickle=False)
    np.testing.assert_array_equal(style, studio.box.bank.styles[0])


def test_a_blend_that_says_nothing_is_not_kept(wish: Wish, studio: Studio) -> None:
    def say(style: Style, text: str) -> Pcm:
        return studio.say(style, text) if style[0, 0, 0] == 1 else np.zeros(80_000, np.float32)

    assert clone(wish, replace(studio.box, say=say), quiet).tried["blend"] == 0


def test_refining_ends_in_time_and_is_judged_by_a_sentence_that_it_did_not_hear(wish: Wish, studio: Studio) -> None:
    report = clone(replace(wish, refine_s=0.2), studio.box, quiet)
    texts = [text for _, text in studio.said]
    assert "refined" in report.tried
    assert texts[-1] == texts[0] == clone_voice.JUDGED["zh"]
    assert clone_voice.WALKED["zh"] in texts


def test_progress_rises_to_the_end(wish: Wish, studio: Studio) -> None:
    told: list[int] = []
    clone(replace(wish, refine_s=0.1), studio.box, lambda progress, stage: told.append(progress))
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0, 100)


@pytest.mark.parametrize(
    ("language", "text", "expected"), [("en", "你好", "en"), ("", "你好", "zh"), ("", "hello", "en"), ("", "", "en")]
)
def test_the_style_is_tried_in_the_language_of_the_reference(
    wish: Wish, studio: Studio, language: str, text: str, expected: str
) -> None:
    clone(replace(wish, language=language, text=text), studio.box, quiet)
    assert {text for _, text in studio.said} == {clone_voice.JUDGED[expected]}


def test_without_a_voice_box_it_is_a_reference_alone(wish: Wish) -> None:
    report = clone(wish, None, quiet)
    voice = find_voice(wish.root, "me")
    assert voice and voice.style is None and voice.about.likeness is None
    assert report.tried == {}


@pytest.mark.parametrize("consent", ["", "yes", " " * 40, "I may."])
def test_without_consent_nothing_is_made(wish: Wish, studio: Studio, consent: str) -> None:
    with pytest.raises(BadRequest, match="right to use this voice"):
        clone(replace(wish, consent=consent), studio.box, quiet)
    assert not wish.root.exists()


@pytest.mark.parametrize("voice_id", ["", "../me", "a b", "声音", ".me", "x" * 65, "zm_four"])
def test_an_id_that_is_none_or_a_presets_is_refused(wish: Wish, studio: Studio, voice_id: str) -> None:
    with pytest.raises(BadRequest, match="voice"):
        clone(replace(wish, voice_id=voice_id), studio.box, quiet)


@pytest.mark.parametrize("part", ["title", "text", "consent"])
def test_what_is_too_long_to_be_kept_is_named(wish: Wish, studio: Studio, part: str) -> None:
    too_long: Wish = replace(wish, **{part: "x" * 3000})  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match=f"--{part} is too long"):
        clone(too_long, studio.box, quiet)


def test_a_voice_is_replaced_only_if_that_is_wished(wish: Wish) -> None:
    clone(wish, None, quiet)
    with pytest.raises(BadRequest, match="already"):
        clone(replace(wish, title="Again"), None, quiet)
    clone(replace(wish, title="Again", replace=True), None, quiet)
    assert [voice.about.title for voice in list_voices(wish.root)] == ["Again"]
    assert [path.name for path in wish.root.iterdir()] == ["me"]


def test_what_fails_on_the_way_leaves_nothing_behind(wish: Wish, studio: Studio) -> None:
    def say(style: Style, text: str) -> Pcm:
        raise EngineFailed("the Kokoro voice failed")

    with pytest.raises(EngineFailed):
        clone(wish, replace(studio.box, say=say), quiet)
    assert not wish.root.exists()


def test_a_voice_that_cannot_be_put_in_its_place_leaves_the_old_one(
    wish: Wish, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone(wish, None, quiet)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="No space"):
        clone(replace(wish, title="Again", replace=True), None, quiet)
    assert [voice.about.title for voice in list_voices(wish.root)] == ["Me"]


def hiss(level: float, samples: int) -> Pcm:
    return np.random.default_rng(0).normal(0, level, samples).astype(np.float32)


def chords(samples: int) -> Pcm:
    t = np.arange(samples) / 16_000
    return np.asarray(sum(0.1 * np.sin(2 * np.pi * hz * t) * np.exp(-3 * (2 * t % 1)) for hz in (220, 277, 330)), "f4")


BAD: dict[str, tuple[Callable[[], Pcm], str]] = {
    "silence": (lambda: np.zeros(80_000, np.float32), "too quiet"),
    "hiss": (lambda: hiss(0.1, 80_000), "nobody is heard"),
    "music": (lambda: chords(80_000), "nobody is heard"),
    "whisper": (lambda: sound(73) * np.float32(0.002), "too quiet"),
    "short": (lambda: sound(248)[:32_000], "only 1.* s of speech"),
    "long": (lambda: np.tile(sound(73, 110, 171, 583), 4), "s of speech: cut them to 60"),
    "clipped": (lambda: (sound(73) * 8).clip(-0.9, 0.9), "clipped"),
    "noisy": (lambda: sound(73) + hiss(0.05, len(sound(73))), "too much noise"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_recording_that_is_no_reference_is_told_why_in_a_sentence(tmp_path: Path, kind: str) -> None:
    make, sentence = BAD[kind]
    with pytest.raises(BadMedia, match=sentence):
        listen(write(tmp_path / "bad.wav", make()))


@pytest.mark.parametrize("data", [b"", b"<html>no</html>", os.urandom(3000)])
def test_a_file_without_sound_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "ref.wav").write_bytes(data)
    with pytest.raises(BadMedia, match="no sound"):
        listen(tmp_path / "ref.wav")


def test_a_recording_of_hours_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices, "FILE_S", 4.0)
    with pytest.raises(BadMedia, match="longer than"):
        listen(write(tmp_path / "ref.wav", sound(73)))


def test_samples_that_are_no_numbers_are_silence(tmp_path: Path) -> None:
    pcm = sound(73)
    pcm[:800] = np.nan
    soundfile.write(tmp_path / "ref.wav", pcm, 16_000, subtype="FLOAT")
    assert np.isfinite(listen(tmp_path / "ref.wav").sound).all()


@pytest.mark.parametrize("rate_hz", [8000, 44_100, 96_000])
def test_any_rate_and_two_channels_are_heard(tmp_path: Path, rate_hz: int) -> None:
    pcm = sound(73)
    at = np.linspace(0, len(pcm) - 1, round(len(pcm) * rate_hz / 16_000))
    stereo = np.repeat(np.interp(at, np.arange(len(pcm)), pcm)[:, None], 2, axis=1)
    recording = listen(write(tmp_path / "ref.wav", stereo.astype(np.float32), rate_hz))
    assert recording.seconds == pytest.approx(listen(write(tmp_path / "same.wav", pcm)).seconds, abs=0.3)


def test_a_compressed_recording_is_heard_too(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "ref.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound(73)[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    assert listen(tmp_path / "ref.m4a").seconds > 4


def test_long_pauses_and_silent_ends_are_cut(tmp_path: Path, reference: Path) -> None:
    gap = np.zeros(48_000, np.float32)
    loose = listen(write(tmp_path / "loose.wav", np.concatenate([gap, sound(73), gap, sound(110), gap])))
    assert len(loose.sound) / 24_000 < len(sound(73, 110)) / 16_000 + 0.6


def peak(weights: Weights) -> float:
    return -float(np.sum((weights - np.array([0.4, 0.8, -0.2, 0])) ** 2))


def test_a_walk_never_gets_worse_and_arrives() -> None:
    steps = list(islice(walk(np.array([1.0, 0, 0, 0]), peak, np.random.default_rng(0)), 400))
    scores = [score for _, score in steps]
    assert scores == sorted(scores)
    assert scores[-1] > -0.01
    np.testing.assert_allclose([weights.sum() for weights, _ in steps], 1, atol=1e-9)


def test_a_mixture_is_found_again_in_the_bank(studio: Studio) -> None:
    random = np.random.default_rng(1)
    rows = np.abs(random.normal(size=(4, 256))).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    bank = replace(studio.box.bank, likenesses=rows)
    weights = np.array([0.5, 0, 0.3, 0.2])
    np.testing.assert_allclose(bank.weights_of((weights @ rows).astype(np.float32)), weights, atol=1e-4)


def test_the_report_calls_itself_an_approximation() -> None:
    text = Report(12.0, 0.9, 0.5, {"preset zm_four": 0.7, "blend": 0.8}, "blend").as_text()
    assert "An approximation of timbre" in text
    assert "0.50  the presets on average" in text and "0.70  preset zm_four" in text and "0.80  blend" in text
    assert "more than one person" not in text


def test_a_recording_whose_halves_differ_is_remarked_upon() -> None:
    assert "more than one person" in Report(12.0, 0.5, 0.5, {"blend": 0.8}, "blend").as_text()


def test_missing_models_are_named_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"'kokoro' and 'speaker' with scripts/fetch_models\.py"), kokoro(tmp_path):
        pass


def test_the_program_tells_programs_how_far_it_is(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(reference), "--id", "me", "--consent", CONSENT, "--voices", str(tmp_path), "--reference-only", "--json"]
    assert main(argv) == 0
    *steps, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert [step["progress"] for step in steps] == [0, 99, 100]
    assert last["voice_id"] == "me"
    assert last["report"]["seconds"] > 4
    assert main(argv) == 1
    assert json.loads(capsys.readouterr().out)["error"].startswith("there is a voice 'me' already")


def test_the_program_says_who_else_takes_the_reference(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(reference), "--id", "me", "--consent", CONSENT, "--voices", str(tmp_path), "--reference-only"]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "cosyvoice" in said and "--tts kokoro" not in said


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "121", "many"])
def test_a_time_that_is_none_is_refused(minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["ref.wav", "--id", "me", "--refine", minutes])
    assert "a number of minutes" in capsys.readouterr().err


def test_a_program_without_a_terminal_is_refused_without_consent(reference: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "studio.clone_voice", str(reference), "--id", "me", "--voices", str(tmp_path)]
    done = subprocess.run(
        [*command, "--reference-only"], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "--consent" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(
    not all((MODELS / name).exists() for name in ("kokoro/kokoro.onnx", "speaker.pt", "kokoro-bank.npz")),
    reason="the models 'kokoro' and 'speaker' have not been fetched",
)
def test_kokoro_comes_nearer_to_a_voice_than_its_presets_do(wish: Wish) -> None:
    with kokoro(MODELS) as box:
        others = [row for row, name in enumerate(box.bank.names) if name != "zf_xiaoyi"]
        bank = Bank(tuple(box.bank.names[row] for row in others), box.bank.likenesses[others], box.bank.styles[others])
        report = clone(wish, replace(box, bank=bank), quiet)
    assert report.tried[report.kept] > report.presets + 0.1
    assert report.tried[report.kept] > 0.75
