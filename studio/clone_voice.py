"""Makes a voice of a recording: `python -m studio.clone_voice REF.wav --id me --consent "I have the right to …"`.

With `--json` it writes one JSON object a line: `{"progress": 0-100, "stage": "…"}`, and at the end either
`{"voice_id": "…", "report": {…}}` with exit status 0, or `{"error": "…"}` and 1.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from pydantic import ValidationError

from core.errors import BadRequest, VivaceError
from core.media import Pcm, Voice
from core.voices import VOICE_ID, About
from nets.speaker import Likeness, load_speaker
from studio.telling import Tell, say, say_json, tell_json, tell_person
from studio.voices import Bank, Recording, Style, Weights, listen, save_voice, walk, without_pauses, write_voice
from ttsreal import CJK, TTS, BaseTTS, VoiceSettings

MAX_MINUTES = 120.0
LEAST_CONSENT = 20  # characters
LEAST_SPEECH_SAMPLES = 16_000  # of a trial: what says less in a whole sentence is broken
ONE_PERSON = 0.65  # between the halves of a recording
CLONERS = "cosyvoice, gpt-sovits, fishtts, xtts, indextts2"

# Said to be judged; and said at each step of the walk, so that the judge hears what the walk did not.
JUDGED = {
    "zh": "今天天气很好，我想和朋友们一起去公园散步，然后找一家安静的饭馆吃晚饭。",
    "en": "The weather is lovely today, so I would like to walk through the park and have dinner with my friends.",
}
WALKED = {
    "zh": "每个星期六的早上，我都会去河边跑步，顺便买些水果和面包。",
    "en": "Every Saturday morning I go for a run along the river and buy some bread on my way home.",
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be made: `text` is what the reference says, `root` where the voices are. Refined for `refine_s`."""

    reference: Path
    voice_id: str
    consent: str
    title: str = ""
    text: str = ""
    language: str = ""
    refine_s: float = 0.0
    root: Path = Path("data/voices")
    replace: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Voicebox:
    """What styles are made with: preset voices, whose voice a pcm of speech is, and what a style makes of a text."""

    bank: Bank
    embed: Callable[[Pcm], Likeness]
    say: Callable[[Style, str], Pcm]

    def likeness(self, weights: Weights, text: str, whose: Likeness) -> float:
        """The cosine between `whose` voice and the blend of `weights` saying `text`; 0 if that is no speech."""
        speech = without_pauses(self.say(self.bank.blend(weights), text))
        return float(self.embed(speech) @ whose) if len(speech) >= LEAST_SPEECH_SAMPLES else 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. Likenesses are cosines of speaker embeddings with the reference, up to 1.

    `halves` is that of its one half with its other, `presets` the mean of the bank, `tried` what each candidate
    reaches in a sentence of its own, `mixture` the larger shares of the one that is `kept`.
    """

    seconds: float
    halves: float = 0.0
    presets: float = 0.0
    tried: dict[str, float] = field(default_factory=dict)
    kept: str = ""
    mixture: dict[str, float] = field(default_factory=dict)

    def as_text(self) -> str:
        """For people, several lines."""
        lines = [f"{self.seconds:.1f} s of speech"]
        if self.tried:
            lines += ["likeness to it, the cosine of speaker embeddings:"]
            lines += [f"  {self.halves:.2f}  its own two halves", f"  {self.presets:.2f}  the presets on average"]
            lines += [f"  {reached:.2f}  {name}" for name, reached in self.tried.items()]
            lines += [f"kept: {self.kept}. An approximation of timbre, not the person: manner of speech is not cloned."]
        if self.tried and self.halves < ONE_PERSON:
            lines += ["its halves differ: if more than one person speaks in it, cut it to one"]
        return "\n".join(lines)


def clone(wish: Wish, voicebox: Voicebox | None, tell: Tell) -> Report:
    """Make the voice and return how like it is. Without a `voicebox` it is a reference alone, for engines that clone.

    Blocking: some 10 s of one core, and `wish.refine_s`. BadMedia if the recording is no reference; BadRequest if
    consent is not stated, the id is none or taken, and there is no `replace`; EngineFailed if Kokoro does not speak.
    """
    about = _about(wish)
    _check(wish, voicebox)
    tell(0, "listening")
    recording = listen(wish.reference)
    report, style = Report(recording.seconds), None
    if voicebox:
        report, style = _approach(wish, voicebox, recording, tell)
    tell(99, "writing the voice")
    about = about.model_copy(update={"likeness": report.tried.get(report.kept)})
    save_voice(wish.root, wish.voice_id, about, recording.sound, style, replace=wish.replace)
    tell(100, "done")
    return report


def _about(wish: Wish) -> About:
    """What is to be said of the voice. BadRequest if a part of it is too long."""
    try:
        return About(
            title=wish.title.strip(),
            text=wish.text.strip(),
            language=wish.language,
            consent=wish.consent.strip(),
            made=datetime.now(UTC).isoformat(timespec="seconds"),
        )
    except ValidationError as error:
        raise BadRequest(f"--{error.errors()[0]['loc'][0]} is too long") from error


def _check(wish: Wish, voicebox: Voicebox | None) -> None:
    """BadRequest for what can be known before anything is done."""
    if len(wish.consent.strip()) < LEAST_CONSENT:
        raise BadRequest(
            "say that you have the right to use this voice, and from whom: --consent, "
            f"at least {LEAST_CONSENT} characters"
        )
    if not VOICE_ID.fullmatch(wish.voice_id):
        raise BadRequest("voice ids are letters, digits, '_' and '-', at most 64")
    if voicebox and wish.voice_id in voicebox.bank.names:
        raise BadRequest(f"'{wish.voice_id}' is a voice of Kokoro: choose another id")
    if (wish.root / wish.voice_id).exists() and not wish.replace:
        raise BadRequest(f"there is a voice '{wish.voice_id}' already: choose another id, or --replace it")


def _approach(wish: Wish, box: Voicebox, recording: Recording, tell: Tell) -> tuple[Report, Style]:
    """The style that comes nearest of a preset, a blend, and a blend refined; and how near each comes."""
    whose = box.embed(recording.speech)
    nearest = box.bank.nearest(whose)
    language = _language(wish, box.bank.names[nearest])
    candidates = {f"preset {box.bank.names[nearest]}": box.bank.only(nearest), "blend": box.bank.weights_of(whose)}
    tried: dict[str, float] = {}
    for name, weights in candidates.items():
        tell(10 + 10 * len(tried), f"trying the {name}")
        tried[name] = box.likeness(weights, JUDGED[language], whose)
    if wish.refine_s:
        start = candidates[max(tried, key=tried.__getitem__)]
        candidates["refined"] = _refined(start, box, whose, language, wish.refine_s, tell)
        tried["refined"] = box.likeness(candidates["refined"], JUDGED[language], whose)
    kept = max(tried, key=tried.__getitem__)
    half = len(recording.speech) // 2
    report = Report(
        recording.seconds,
        float(box.embed(recording.speech[:half]) @ box.embed(recording.speech[half:])),
        float(np.mean(box.bank.likenesses @ whose)),
        tried,
        kept,
        _mixture(box.bank, candidates[kept]),
    )
    return report, box.bank.blend(candidates[kept])


def _language(wish: Wish, nearest: str) -> str:
    """In which language the style is tried: that of the reference, or of the preset that is most like it."""
    if wish.language in JUDGED:
        return wish.language
    chinese = CJK.search(wish.text) if wish.text else nearest.startswith("z")
    return "zh" if chinese else "en"


def _refined(start: Weights, box: Voicebox, whose: Likeness, language: str, seconds: float, tell: Tell) -> Weights:
    """The best mixture that a walk finds in time."""

    def score(weights: Weights) -> float:
        return box.likeness(weights, WALKED[language], whose)

    begun = time.monotonic()
    steps = walk(start, score, np.random.default_rng(0))
    while True:
        best, reached = next(steps)
        passed = time.monotonic() - begun
        tell(30 + int(65 * min(passed / seconds, 1)), f"refining: {reached:.3f}")
        if passed >= seconds:
            return best


def _mixture(bank: Bank, weights: Weights) -> dict[str, float]:
    rows = np.argsort(-np.abs(weights))[:5]
    return {bank.names[row]: round(float(weights[row]), 2) for row in rows if abs(weights[row]) >= 0.01}


@contextmanager
def kokoro(models: Path) -> Iterator[Voicebox]:
    """The voice box of the weights in `models`. BadRequest if they are not there. Takes about 2 s and 0.5 GB."""
    try:
        bank, speaker = Bank.load(models), load_speaker(models / "speaker.pt")
    except BadRequest as error:
        hint = "fetch the models 'kokoro' and 'speaker' with scripts/fetch_models.py, or ask for --reference-only"
        raise BadRequest(f"{error}: {hint}") from error
    torch.set_num_threads(1)  # for a network of this size, more only wait for each other
    with TemporaryDirectory(prefix="voices-") as folder, asyncio.Runner() as runner:
        engine: BaseTTS = TTS.load("kokoro")(VoiceSettings(models=models, voices=Path(folder)))
        numbers = count()

        def say(style: Style, text: str) -> Pcm:
            trial = f"trial-{next(numbers)}"
            (Path(folder) / trial).mkdir()
            write_voice(Path(folder) / trial, About(), np.zeros(0, np.float32), style)
            return runner.run(_said(engine, text, Voice(trial)))

        try:
            yield Voicebox(bank, speaker.embed, say)
        finally:
            runner.run(engine.aclose())


async def _said(engine: BaseTTS, text: str, voice: Voice) -> Pcm:
    return np.concatenate([np.zeros(0, np.float32), *[piece.pcm async for piece in engine.stream(text, voice)]])


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit status."""
    args = _arguments(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    report, problem = None, ""
    try:
        wish = _wish(args)
        with nullcontext() if args.reference_only else kokoro(args.models) as voicebox:
            report = clone(wish, voicebox, tell_json if args.json else tell_person)
    except VivaceError as error:
        problem = str(error)
    except OSError as error:
        problem = f"the voice could not be written: {error.strerror}"
    except KeyboardInterrupt:
        problem = "stopped before the end: nothing was written"
    _conclude(args, report, problem)
    return 1 if problem else 0


def _arguments(argv: Sequence[str] | None) -> Namespace:
    parser = ArgumentParser("python -m studio.clone_voice", description="Make a voice of a recording of one person.")
    parser.add_argument("reference", type=Path, help="3 to 60 s of speech, in whatever a phone or a recorder writes")
    parser.add_argument("--id", required=True, help="letters, digits, '_' and '-'")
    parser.add_argument("--consent", default="", help="that you have the right to use this voice, and from whom")
    parser.add_argument("--title", default="", help="what people call it")
    parser.add_argument("--text", default="", help="what is said in it, word for word; engines that clone want it")
    parser.add_argument("--language", choices=sorted(JUDGED), default="", help="which language is spoken in it")
    parser.add_argument("--refine", type=_minutes, default=0.0, metavar="MINUTES", help="go on for so long")
    parser.add_argument("--reference-only", action="store_true", help="for engines that clone: no style for Kokoro")
    parser.add_argument("--voices", type=Path, default=Path("data/voices"), help="folder of voices")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of models")
    parser.add_argument("--replace", action="store_true", help="put it in the place of a voice of the same id")
    parser.add_argument("--json", action="store_true", help="write JSON lines, for programs")
    return parser.parse_args(argv)


def _minutes(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) <= MAX_MINUTES:
            return float(text)
    raise ArgumentTypeError(f"a number of minutes, at most {MAX_MINUTES:.0f}")


def _wish(args: Namespace) -> Wish:
    consent = args.consent
    if not consent and not args.json and sys.stdin.isatty():
        sys.stderr.write("Whose voice is it, and what gives you the right to use it?\n> ")
        sys.stderr.flush()
        consent = sys.stdin.readline()
    return Wish(
        args.reference,
        args.id,
        consent,
        args.title,
        args.text,
        args.language,
        args.refine * 60,
        args.voices,
        args.replace,
    )


def _conclude(args: Namespace, report: Report | None, problem: str) -> None:
    if args.json:
        say_json({"error": problem} if report is None else {"voice_id": args.id, "report": asdict(report)})
    elif report is None:
        say(problem)
    else:
        kokoro_too = f"--tts kokoro --REF_FILE {args.id}; " if report.kept else ""
        say(report.as_text())
        say(f"made: {args.voices / args.id}")
        say(f"use it: {kokoro_too}--REF_FILE {args.id} with engines that clone by themselves ({CLONERS})")


if __name__ == "__main__":
    sys.exit(main())
