"""The captions of a recording: what stands in them, and when."""

from __future__ import annotations

import asyncio
import re
from itertools import pairwise
from pathlib import Path

import pytest

from core.media import FPS, Mark, Utterance
from outputs.captions import LINE, WIDE_LINE, Captions
from tests.fakes.live import Live, connected
from tests.fakes.virtual import in_virtual_time, staged

ABOUT = Utterance(1, "echo")
FIRST = 1000


def play(*marks: tuple[int, str, str], captions: Captions | None = None, ms: int = 0) -> Captions:
    """Captions that were told of (tick, kind, text), ticks counting from `FIRST`; every word is `ms` long."""
    captions = captions or Captions()
    for tick, kind, text in marks:
        captions.hear(FIRST + tick, [Mark(kind, ABOUT, text, ms)])  # type: ignore[arg-type]
    return captions


def cues(captions: Captions, first: int = FIRST) -> list[tuple[str, str]]:
    """(times, text) of each cue."""
    head, *blocks = captions.webvtt(first).rstrip("\n").split("\n\n")
    assert head == "WEBVTT"
    return [(lines[0], "\n".join(lines[1:])) for lines in (block.split("\n") for block in blocks)]


def plain(cue: str) -> str:
    return re.sub(r"<[\d:.]+>", "", cue)


def read_out(text: str, *, every: int = 5) -> Captions:
    """`text` said word by word, one every so many ticks."""
    words = re.findall(r"[\u4e00-\u9fff]|[^\s\u4e00-\u9fff，。、]+", text)
    said = play((0, "sentence", text), *((every * n, "word", word) for n, word in enumerate(words)))
    return play((every * len(words), "end", ""), captions=said)


def test_a_recording_in_which_nobody_speaks_has_no_cues() -> None:
    assert Captions().webvtt(0) == "WEBVTT\n"


def test_a_sentence_is_a_cue_with_a_time_before_each_word_but_the_first() -> None:
    said = play(
        (25, "sentence", "One, two three."),
        (25, "word", "One"),
        (35, "word", "two"),
        (45, "word", "three"),
        (60, "sentence", "Four."),
        (60, "word", "Four"),
        (70, "end", ""),
    )
    assert cues(said) == [
        ("00:00:01.000 --> 00:00:02.400", "One, <00:00:01.400>two <00:00:01.800>three."),
        ("00:00:02.400 --> 00:00:02.800", "Four."),
    ]


def test_times_of_long_recordings_have_hours() -> None:
    tick = 25 * (2 * 3600 + 3 * 60 + 4) + 1
    (cue,) = cues(play((tick, "sentence", "Hi."), (tick + 25, "end", "")))
    assert cue[0] == "02:03:04.040 --> 02:03:05.040"


def test_a_cue_does_not_stay_while_nothing_is_said() -> None:
    said = play((0, "sentence", "One."), (0, "word", "One"), (500, "sentence", "Two."), (510, "end", ""), ms=400)
    assert [times for times, _ in cues(said)] == [
        "00:00:00.000 --> 00:00:01.400",
        "00:00:20.000 --> 00:00:20.400",
    ]


def test_an_interrupted_sentence_ends_where_it_was_cut() -> None:
    said = play((0, "sentence", "One two three."), (0, "word", "One"), (10, "word", "two"))
    said.hear(FIRST + 12, [])
    said.cut()
    assert cues(said) == [("00:00:00.000 --> 00:00:00.520", "One <00:00:00.400>two…")]


def test_a_sentence_that_was_cut_before_its_first_word_is_not_shown() -> None:
    said = play((0, "sentence", "One two three."))
    said.cut()
    said.cut()
    assert cues(play((30, "sentence", "Four."), (40, "end", ""), captions=said))[0][1] == "Four."


def test_what_came_before_the_first_picture_is_left_out_and_what_lasts_is_shortened() -> None:
    said = play((0, "sentence", "One."), (10, "sentence", "Two two."), (11, "word", "Two"), (30, "word", "two"))
    (cue,) = cues(play((40, "end", ""), captions=said), FIRST + 20)
    assert cue == ("00:00:00.000 --> 00:00:00.800", "Two <00:00:00.400>two.")


def test_of_a_sentence_that_began_before_the_recording_the_rest_is_shown() -> None:
    said = play((5, "word", "three"), (10, "word", "four"), (20, "end", ""))
    assert cues(said) == [("00:00:00.200 --> 00:00:00.800", "three <00:00:00.400>four")]
    assert plain(cues(play((5, "word", "天"), (9, "word", "气"), (20, "end", "")))[0][1]) == "天气"


def test_what_a_sentence_holds_is_no_markup_and_ends_no_cue() -> None:
    text = "a <b> & --> c"
    ((_, cue),) = cues(play((0, "sentence", text), (4, "word", "c"), (20, "end", "")))
    assert cue == "a &lt;b&gt; &amp; --&gt; <00:00:00.160>c"
    assert cues(play((0, "sentence", "one\n\ntwo"), (20, "end", "")))[0][1] == "one two"


@pytest.mark.parametrize(
    "text",
    [
        "The quick brown fox jumps over the lazy dog and then it sleeps until the sun comes up again tomorrow morning.",
        "今天的天气非常好，我们一起去公园散步吧，那里有很多漂亮的花，还有许多可爱的小动物在等着我们去看。",
        "他说：“这个叫作《红楼梦》的故事，我们已经讲过许多许多遍了，你还想要再听一遍吗？”我们都笑了。",
        "Vivace 是一个实时的数字人 server，你可以 talk with it in English 也可以用中文和它聊天。",
        "x" * 240,
        "Short.",
        "好",
    ],
)
def test_lines_are_short_and_nothing_is_lost(text: str) -> None:
    found = cues(read_out(text))
    lines = [line for _, cue in found for line in plain(cue).split("\n")]
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(cue.count("\n") <= 1 for _, cue in found)
    for line in lines:
        wide = len(re.findall(r"[\u3000-\u9fff\uff00-\uffef]", line))
        assert wide * LINE / WIDE_LINE + len(line) - wide <= LINE
        assert line[0] not in "，。、？！”》" and line[-1] not in "“《"
    times = [re.split(" --> ", times) for times, _ in found]
    assert all(before[1] == after[0] for before, after in pairwise(times))
    tags = [tag for _, cue in found for tag in re.findall(r"<([\d:.]+)>", cue)]
    assert tags == sorted(set(tags))


def test_lines_are_about_as_long_as_each_other() -> None:
    ((_, cue),) = cues(read_out("One sentence that is only a little longer than one line."))
    first, second = plain(cue).split("\n")
    assert abs(len(first) - len(second)) < 12


def test_a_voice_that_knows_no_words_shows_each_part_about_when_it_is_said() -> None:
    text = "word " * 32 + "end."
    found = cues(play((0, "sentence", text), (250, "end", "")))
    assert [times[:12] for times, _ in found] == ["00:00:00.000", "00:00:04.280", "00:00:08.520"]


@in_virtual_time
async def test_a_session_writes_captions_beside_its_recording_and_publishes_both(tmp_path: Path) -> None:
    async with staged() as stage:
        await asyncio.sleep(1)
        stage.real.start_recording(tmp_path / "record")
        await asyncio.sleep(1)
        stage.real.put_msg_txt("One two three. Four five six.")
        await asyncio.sleep(5)
        stage.real.put_msg_txt("Seven eight nine ten.")
        await asyncio.sleep(1.2)
        stage.real.flush_talk()
        await asyncio.sleep(1)
        assert not list(tmp_path.glob("record*.vtt"))
        await stage.real.stop_recording()
    mine = tmp_path / "record" / f"{stage.real.id}.vtt"
    assert mine.read_text() == (tmp_path / "record.vtt").read_text()
    assert {path.name for path in tmp_path.rglob("*.*")} == {
        "record.mp4",
        "record.vtt",
        mine.name,
        f"{stage.real.id}.mp4",
    }
    found = re.findall(r"(\S+) --> (\S+)\n(.+)", mine.read_text())
    assert [plain(text) for _, _, text in found] == ["One two three.", "Four five six.", "Seven eight…"]
    begun = next(event.time_ms for event in stage.events if event.kind == "sentence")
    heard_ms = 1000 * float(found[0][0].split(":")[-1])
    assert abs(begun - 1000 - heard_ms) <= 1000 * 2 / FPS  # recording began after a second


@pytest.mark.parametrize("name", ["1.vtt", "x.vtt", "..%2fx.vtt", ".vtt"])
async def test_no_captions_are_not_found(live: Live, name: str) -> None:
    async with live.http.get(f"{live.url}/record/{name}") as response:
        assert response.status == 404


async def test_captions_can_be_fetched_like_the_recording(live: Live) -> None:
    async with connected(live) as peer:
        await live.post("/record", sessionid=peer.sessionid, type="start_record")
        await live.post("/human", sessionid=peer.sessionid, type="echo", text="Hi <you>.")
        await asyncio.sleep(1.5)
        await live.post("/record", sessionid=peer.sessionid, type="end_record")
        async with live.http.get(f"{live.url}/record/{peer.sessionid}.vtt") as response:
            assert response.content_type == "text/vtt" and response.charset == "utf-8"
            assert "attachment" in response.headers["Content-Disposition"]
            webvtt = await response.text()
    assert webvtt.startswith("WEBVTT\n\n") and "Hi" in webvtt
    async with live.http.get(f"{live.url}/openapi.json") as response:
        described = (await response.json())["paths"]["/record/{sessionid}.vtt"]["get"]
    assert [parameter["name"] for parameter in described["parameters"]] == ["sessionid"]
