"""The report: one page that reaches for nothing, says what it was given, and lets no text lie over another."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest

from undrift.demo.drawing import Drawing, Packer, bars, fit, lines, ticks, width_of
from undrift.demo.report import write_report
from undrift.demo.scoreboard import Month, Row, Scoreboard
from undrift.demo.story import full_story
from undrift.demo.timeline import timeline
from undrift.demo.truth import Gain

from year import DAY, Log, on  # isort: skip

STORY = full_story()
WIDTHS = (1120.0, 704.0)
VOID = {"meta", "br", "link", "img", "col", "input", "hr"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; an end that closes nothing is noted."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.said: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())


def row(**how: str) -> Row:
    given = {
        "at": "2013-05-22",
        "what": "retrain",
        "truth": "",
        "undrift": "",
        "delay": "",
        "exposed": "",
        "verdict": "",
    }
    return Row(**{**given, **how})


def month(number: int, **how: float) -> Month:
    given = {"n": 25_101, "late": 0.2, "served": 0.41, "never": 0.43, "served_auc": 0.71, "never_auc": 0.69}
    return Month(name=f"2013-{number:02d}", champion=2, **{**given, **how})  # type: ignore[arg-type]


def board(**how: object) -> Scoreboard:
    given: dict[str, object] = {
        "rows": (
            row(
                what="planted fault",
                truth="units change",
                undrift="alert: Celsius",
                delay="4 d",
                exposed="1,234",
                verdict="caught",
            ),
            row(
                what="alert: inputs",
                truth="humid 0.08",
                undrift="humid drifted",
                verdict="FALSE ALARM",
                evidence="gap 0.31",
            ),
        ),
        "months": tuple(month(number) for number in range(4, 13)),
        "false_alarms": 1,
        "budget": 36.67,
        "caught": 3,
        "planted": 3,
        "served": 0.4713,
        "never": 0.4889,
        "gain": Gain(since="2013-04-01", n=250_000, value=0.0176, lower=0.0101, upper=0.0251),
        "final_gain": Gain(since="2013-11-02", n=50_000, value=-0.0012, lower=-0.0046, upper=0.0022),
        "final_served": 0.5511,
        "final_never": 0.6122,
        "predictions": 252_704,
        "promoted": 2,
        "refused": 5,
    }
    return Scoreboard(**{**given, **how})  # type: ignore[arg-type]


def year() -> Log:
    log = Log()
    log.first_champion()
    log.alert(on(4, 21), "inputs", "drift", "temp drifted")
    log.rollout(
        "a",
        2,
        1,
        [(5, on(5, 22)), (0, on(5, 24))],
        started=on(5, 20),
        status="rolled_back",
        why="bad",
        actor="person:ben",
    )
    log.retrain(on(6, 11), "challenger is version 3", accepted=True)
    log.rollout(
        "b",
        3,
        1,
        [(5, on(6, 13)), (50, on(6, 15)), (100, on(6, 18))],
        started=on(6, 11),
        status="succeeded",
        why="held",
    )
    log.alert(on(8, 6), "feeds", "feed", "weather: Fahrenheit to Celsius (temp, dewp)", source="weather")
    log.alert(
        on(8, 27), "feeds", "feed", "weather: Fahrenheit to Celsius (temp, dewp)", source="weather", what="resolved"
    )
    log.add("tick.judged", on(8, 28), "nothing to say", {})
    return log


def written(tmp_path: Path, found: Scoreboard | None = None, log: Log | None = None) -> str:
    path = write_report(tmp_path / "report.html", found or board(), (log or year()).events, STORY)
    return path.read_text(encoding="utf-8")


# -- the page ---------------------------------------------------------------------------------------------


def test_the_page_reaches_for_nothing_outside_itself_and_runs_no_script(tmp_path: Path) -> None:
    text = written(tmp_path)
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "use", "image"} & set(page.tags)
    names = {name for name, _ in page.attributes}
    assert not {
        name for name in names if name in ("src", "href", "xlink:href", "srcset", "action") or name.startswith("on")
    }
    assert not re.search(r"https?:|//|@import|url\(", text)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes


def test_every_tag_is_closed_where_it_was_opened(tmp_path: Path) -> None:
    page = Page(written(tmp_path))
    assert (page.open, page.wrong) == ([], [])


def test_the_figures_of_the_scoreboard_are_told(tmp_path: Path) -> None:
    said = Page(written(tmp_path)).text
    for told in (
        "3 of 3", "budget 37", "0.4713", "never updated 0.4889 (−3.6 %)",
        "0.5511", "252,704", "5 retrains refused", "after 4 d", "1,234", "gap 0.31", "FALSE ALARM", "25,101", "+0.0200",
    ):  # fmt: skip
        assert told in said, told


def test_what_did_not_hold_is_said(tmp_path: Path) -> None:
    good = Page(written(tmp_path)).text
    bad = Page(written(tmp_path, board(caught=2, false_alarms=40, final_served=0.7))).text
    assert (good.count("✓"), good.count("✗")) == (3, 0)
    assert (bad.count("✓"), bad.count("✗")) == (0, 3)
    assert "2 of 3" in bad


def test_text_of_the_log_and_of_rows_is_text_and_never_markup(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script> & <b>"
    log = year()
    log.alert(on(9, 9), "quality", "performance", evil)
    log.add("declaration.applied", on(9, 9), evil, {}, actor='"><i>')
    text = written(tmp_path, board(rows=(row(undrift=evil, truth=evil, evidence=f"{evil}!"),)), log)
    page = Page(text)
    assert not {"script", "b", "i"} & set(page.tags)
    assert page.text.count(evil) >= 4
    assert '"><i>' in page.text


def test_the_log_lists_decisions_with_their_time_and_counts_what_moved_nothing(tmp_path: Path) -> None:
    said = Page(written(tmp_path)).text
    assert "2013-05-24 00:00 rollout.rolled_back work bad" in said
    assert "before the start revision.promoted person:demo" in said
    assert "without 1 judgements" in said
    assert "nothing to say" not in said


def test_a_report_holds_nothing_of_the_clock_on_the_wall(tmp_path: Path) -> None:
    # year.Log records everything on 2031-07-09, and people's first decision is of that date too
    assert "2031" not in written(tmp_path)
    assert written(tmp_path) == written(tmp_path)


def test_a_run_of_which_nothing_is_known_still_makes_a_page(tmp_path: Path) -> None:
    nan = float("nan")
    nothing = Gain(since="2013-04-01", n=0, value=nan, lower=nan, upper=nan)
    empty = board(
        rows=(), months=(), predictions=0, served=nan, never=nan, gain=nothing, final_gain=nothing, final_served=nan,
        final_never=nan, caught=0,
    )  # fmt: skip
    page = Page(written(tmp_path, empty, Log()))
    assert "nan" not in page.text
    assert "0 of 3" in page.text
    assert "none was found" in page.text


def test_a_month_without_an_order_leaves_a_gap_in_its_line(tmp_path: Path) -> None:
    months = tuple(month(number, served_auc=float("nan") if number == 8 else 0.7) for number in range(4, 13))
    text = written(tmp_path, board(months=months))
    assert "nan" not in text
    drawn = lines("t", list("abcde"), [("served", "served", [1, 2, float("nan"), 2, 1])], "u", str)
    assert [mark.d.count("L") for mark in drawn.marks if mark.css == "line served"] == [1, 1]


# -- the drawings -----------------------------------------------------------------------------------------


def boxes(drawing: Drawing) -> list[tuple[str, float, float, float]]:
    """Texts with their left and right ends and base lines."""
    found = []
    for mark in drawing.marks:
        if mark.shape == "text":
            wide = width_of(mark.text, 11.0 if "small" in mark.css else 12.0)
            left = mark.x - {"start": 0.0, "middle": wide / 2, "end": wide}[mark.anchor]
            found.append((mark.text, left, left + wide, mark.y))
    return found


def assert_legible(drawing: Drawing) -> None:
    texts = boxes(drawing)
    for one, two in itertools.combinations(texts, 2):
        apart = one[2] <= two[1] + 0.5 or two[2] <= one[1] + 0.5 or abs(one[3] - two[3]) >= 11
        assert apart, f"{one} lies over {two}"
    for text, left, right, base in texts:
        assert left >= -1, text
        assert right <= drawing.width + 1, text
        assert 0 < base <= drawing.height, text


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("width", WIDTHS)
def test_no_text_of_the_year_lies_over_another_however_crowded_it_is(seed: int, width: float) -> None:
    rng = np.random.default_rng(seed)
    log = Log()
    log.first_champion()
    days = np.sort(rng.choice(260, 24, replace=False))
    for place, day in enumerate(days):
        at = STORY.start + int(day) * DAY
        kind = ("drift", "feed", "performance", "silent")[place % 4]
        title = "carrier_late_7d, origin_late_7d, wind_dir, visib and 3 more drifted"[: int(rng.integers(8, 70))]
        log.alert(at, f"m{place}", kind, title)
        if rng.random() < 0.6:
            log.alert(at + int(rng.integers(1, 40)) * DAY, f"m{place}", kind, title, what="resolved", opened=at)
        if place % 2:
            steps = [(5.0, at + DAY), (25.0, at + 2 * DAY), (100.0 if place % 4 == 1 else 0.0, at + 3 * DAY)]
            status = "succeeded" if place % 4 == 1 else "rolled_back"
            log.rollout(f"r{place}", place + 2, 1, steps, started=at, status=status, why="so", actor="person:ben")
    assert_legible(timeline(log.events, STORY, width))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_year_without_events_is_drawn_too(width: float) -> None:
    drawing = timeline([], STORY, width)
    assert_legible(drawing)
    assert sum(mark.text == "none" for mark in drawing.marks) == 4  # all lanes but what was planted


def test_spans_stand_where_their_dates_are() -> None:
    drawing = timeline(year().events, STORY, 1120.0)
    bands = [mark for mark in drawing.marks if mark.css.startswith("reign")]
    assert [band.tip.split(" is ")[0] for band in bands] == ["version 1", "version 3"]
    days = (STORY.end - STORY.start).days
    share = (on(6, 18) - STORY.start).days / days
    whole = bands[1].x + bands[1].w - bands[0].x
    assert (bands[1].x - bands[0].x) / whole == pytest.approx(share, abs=0.005)
    heights = {mark.tip.split(":")[1].split(",")[0]: mark.h for mark in drawing.marks if mark.css == "trial succeeded"}
    assert list(heights) == [" 5 % of flights", " 50 % of flights"]
    assert heights[" 50 % of flights"] == pytest.approx(20, abs=0.1)  # half of the 40 pixels of a whole
    faults = [mark.tip for mark in drawing.marks if mark.css == "planted"]
    assert [tip.split(",")[0] for tip in faults] == [
        "candidate wrong for UA", "weather feed changes from Fahrenheit to Celsius", "model server answers a constant",
    ]  # fmt: skip
    assert "2013-05-22 to 2013-05-24" in faults[0]
    incidents = [mark.tip for mark in drawing.marks if mark.css.startswith("incident")]
    assert "still open at the end" in incidents[0]
    assert "2013-08-06, resolved 2013-08-27" in incidents[1]


def test_the_name_of_a_long_rollout_stands_beside_its_steps_not_in_them() -> None:
    log = Log()
    log.rollout("a", 2, 1, [(5, on(5, 1)), (100, on(8, 1))], started=on(4, 20), status="succeeded", why="held")
    marks = timeline(log.events, STORY, 1120.0).marks
    (name,) = [mark for mark in marks if mark.text == "v2 champion"]
    assert name.x > max(mark.x + mark.w for mark in marks if mark.css.startswith("trial"))


def test_plots_name_their_unit_and_no_text_in_them_overlaps() -> None:
    names = ["Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    near = [0.5 + 0.001 * place for place in range(9)]
    drawn = lines(
        "t", names, [("served", "served", near), ("never", "never updated", near)], "nats", lambda v: f"{v:.2f}"
    )
    assert_legible(drawn)
    assert_legible(bars("t", names, [13.2, 31.0, 0.0, *near[:6]], "late flights, %", lambda v: f"{v:.0f}"))
    assert drawn.marks[0].text == "nats"


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0.38, 0.61, (0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65)),
        (0.0, 31.0, (0.0, 10.0, 20.0, 30.0, 40.0)),
        (2.0, 2.0, (1.4, 1.6, 1.8, 2.0, 2.2, 2.4, 2.6)),
    ],
)
def test_ticks_are_round_and_span_the_values(low: float, high: float, wanted: tuple[float, ...]) -> None:
    found = ticks(low, high)
    if low < high:
        assert found == pytest.approx(wanted)
    assert found[0] <= low
    assert found[-1] >= high
    assert len({round(b - a, 9) for a, b in itertools.pairwise(found)}) == 1


def test_texts_are_cut_to_their_room_and_left_out_where_nothing_readable_fits() -> None:
    assert fit("short", 200) == "short"
    cut = fit("weather feed changes from Fahrenheit", 100)
    assert cut.endswith("…")
    assert width_of(cut) <= 100
    assert fit("weather feed", 20) == ""


def test_spans_share_a_row_only_if_they_do_not_touch() -> None:
    rows = Packer(gap=10)
    assert [rows.place(0, 50), rows.place(55, 90), rows.place(60, 80), rows.place(101, 120)] == [0, 1, 0, 0]
    assert rows.rows == 2


def test_a_verdict_has_the_colour_of_its_meaning(tmp_path: Path) -> None:
    rows = tuple(
        row(verdict=verdict) for verdict in ("caught", "MISSED", "right", "WRONG", "true", "FALSE ALARM", "NOT NAMED")
    )
    text = written(tmp_path, msgspec.structs.replace(board(), rows=rows))
    moods = re.findall(r'class="badge (\w+)">([\w ]+)<', text)
    assert {verdict for mood, verdict in moods if mood == "bad"} == {"MISSED", "WRONG", "FALSE ALARM", "NOT NAMED"}
    assert {verdict for mood, verdict in moods if mood == "good"} == {"caught", "right", "true"}
