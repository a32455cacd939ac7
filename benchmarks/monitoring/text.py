"""Free text: how often its monitors alarm for nothing, and which changes of language, length and words they find.

    python benchmarks/monitoring/text.py [--streams 12]
    python benchmarks/monitoring/text.py --short

Texts of words drawn from lists (English, some French; Zipf), 3 % of them never seen before: 1,200 on a working day, 500
on others. Length, the share of French and that of new words have a weekly rhythm and days that follow each other
(AR(1), 0.6). 60 days teach the reference, 60 are kept, 90 are judged unchanged; or one thing changes from the
first judged day on and 21 days are judged. Needs the extra ``text``. Half a minute of CPU a stream. With ``--short``
how many texts of few words are told.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from undrift.data.contract import Contract, Field
from undrift.data.language import SHORT, UNKNOWN, languages
from undrift.data.profile import Profile
from undrift.data.text import MEASURED
from undrift.develop.bundle import Interface
from undrift.develop.packing import Reference as Packed
from undrift.finding import Verdict
from undrift.monitor.cells import Slots, cells_of, reference_from
from undrift.monitor.drift import judge_drift
from undrift.monitor.frames import columns_of
from undrift.monitor.monitors import Monitor
from undrift.monitor.texts import with_texts

Floats = NDArray[np.float64]

START = datetime(2025, 1, 6, tzinfo=UTC)
DAY = timedelta(days=1)
TAUGHT, KEPT, QUIET, WATCHED = 60, 60, 90, 21
WORDS = {
    "english": """the and to of a is in it my i was not for on you that with have this be your are at we but they from
        order package delivery driver late broken refund money back please call me today again week still waiting never
        arrived address wrong door neighbour box damaged inside return label send new one help thank service customer
        how long when will where paid twice card account number change date time morning evening nobody came home said
        tracking shows delivered received nothing very disappointed hope soon answer email phone""",
    "french": """le la les et de un une est dans il ma je pas pour sur vous que avec ai ce être votre sont nous mais ils
        commande colis livraison chauffeur retard cassé remboursement argent retour merci appelez moi encore semaine
        toujours attends jamais arrivé adresse mauvaise porte voisin boîte abîmé intérieur renvoyer étiquette envoyer
        nouveau aide service client comment longtemps quand où payé deux fois carte compte numéro changer heure matin
        soir personne venu maison suivi indique livré reçu rien très déçu espère bientôt réponse courriel téléphone""",
    "german": """der die das und zu von ein ist in es mein ich war nicht für auf sie dass mit haben dies sein ihr sind
        wir aber bestellung paket lieferung fahrer spät kaputt erstattung geld zurück bitte anrufen heute wieder woche
        noch warte nie angekommen adresse falsch tür nachbar kiste beschädigt innen rücksendung schicken neu hilfe danke
        kunde wie lange wann wird wo bezahlt zweimal karte konto nummer ändern datum zeit morgen abend niemand kam haus
        sendung zeigt geliefert erhalten nichts sehr enttäuscht hoffe bald antwort telefon""",
}
LISTS = [text.split() for text in WORDS.values()]
LETTERS = np.array(list("bcdfghjklmnprstvwxzaeiouy"))
INTERFACE = Interface(
    model="m", task="regression", label="y",
    contract=Contract(name="m", fields=(Field(name="note", type="string", text=True),)),
)  # fmt: skip
SERIES = tuple(f"note.{each}" for each in MEASURED)
MONITORS = {
    f"practical={size:g}": Monitor(name="notes", kind="drift", history="60d", columns=("note",), practical=size)
    for size in (0.05, 0.005)
}
MONITORS["practical=0.005, without language"] = Monitor(
    name="notes", kind="drift", history="60d", columns=SERIES[:-1], practical=0.005
)
CHANGES = {
    "more texts in French, of which there were 10 %": ("french", (0.02, 0.05, 0.20)),
    "texts in German, of which there were none": ("german", (0.02, 0.05, 0.20)),
    "longer texts": ("length", (0.10, 0.25, 0.50)),
    "more new words, of which there were 3 %": ("new", (0.02, 0.05, 0.20)),
}


class Days(NamedTuple):
    """What each day of a stream is like: mean words of a text, share of French, share of new words."""

    words: Floats
    french: Floats
    new: Floats


def weather(rng: np.random.Generator, size: float) -> Floats:
    """Days that follow each other: AR(1) with 0.6 and a standard deviation of ``size``."""
    found = np.zeros(TAUGHT + KEPT + QUIET)
    for day in range(len(found)):
        found[day] = 0.6 * found[day - 1] + rng.normal(0, 0.8 * size)
    return found


def days_of(seed: int) -> Days:
    rng = np.random.default_rng([seed, 1])
    weekend = (np.arange(TAUGHT + KEPT + QUIET) - TAUGHT) % 7 >= 5
    odds = [np.exp(np.log(p / (1 - p)) + weekend * 0.2 + weather(rng, 0.1)) for p in (0.10, 0.03)]
    return Days(12 * np.exp(0.1 * weekend + weather(rng, 0.05)), odds[0] / (1 + odds[0]), odds[1] / (1 + odds[1]))


def texts_of(seed: int, day: int, like: Days, change: str = "", size: float = 0.0) -> list[str]:
    """The texts of a day, of which the first taught one is 0."""
    rng = np.random.default_rng([seed, 2, day])
    n = int(rng.poisson(500 if (day - TAUGHT) % 7 >= 5 else 1200))
    mean = like.words[day] * (1 + size * (change == "length"))
    # a gamma of Poissons: texts differ more than counts of words by chance
    lengths = 1 + rng.poisson(rng.gamma(3, mean / 3, n))
    draw = rng.random(n)
    french, german = like.french[day] + size * (change == "french"), size * (change == "german")
    language = np.repeat(np.where(draw < french, 1, np.where(draw > 1 - german, 2, 0)), lengths)
    words = np.empty(len(language), dtype=object)
    for place, known in enumerate(LISTS):
        odds = 1 / np.arange(3, len(known) + 3)
        held = language == place
        words[held] = rng.choice(np.array(known, dtype=object), int(held.sum()), p=odds / odds.sum())
    fresh = rng.random(len(words)) < like.new[day] + size * (change == "new")
    words[fresh] = ["".join(each) for each in rng.choice(LETTERS, (int(fresh.sum()), 7))]
    ends = np.cumsum(lengths)
    return [" ".join(words[end - length : end]) for end, length in zip(ends, lengths, strict=True)]


class Stream:
    """One stream: the reference its first days teach, and its columns counted by day."""

    def __init__(self, seed: int) -> None:
        self.seed, self.like = seed, days_of(seed)
        taught = [text for day in range(TAUGHT) for text in texts_of(seed, day, self.like)]
        self.packed = Packed.of_inputs(INTERFACE, pa.table({"note": taught}), Profile())
        self.reference = {name: reference_from(self.packed.inputs.columns[name]) for name in SERIES}
        self.quiet = self.counted(range(TAUGHT, TAUGHT + KEPT + QUIET))

    def counted(self, days: range, change: str = "", size: float = 0.0) -> dict[str, Slots]:
        """Each series by day, in the cells of its reference, as kept profiles hold it."""
        at = np.array([int((START + (day - TAUGHT) * DAY).timestamp()) * 1_000_000 for day in days], dtype=np.int64)
        tables: dict[str, list[Floats]] = {name: [] for name in SERIES}
        for day, moment in zip(days, at, strict=True):
            texts = pa.array(texts_of(self.seed, day, self.like, change, size))
            n = len(texts)
            rows = pa.table(
                {
                    "prediction_id": [f"{day}-{i}" for i in range(n)],
                    "event_time": pa.array(np.full(n, moment), pa.timestamp("us", "UTC")),
                    "score": np.zeros(n),
                    "inputs": pa.StructArray.from_arrays([texts], ["note"]),
                }
            )
            seen = columns_of(with_texts(rows, self.packed.vocabularies))
            for name in SERIES:
                cells = cells_of(self.reference[name], seen[name])
                tables[name].append(np.bincount(cells[cells >= 0], minlength=self.reference[name].size).astype(float))
        return {name: Slots(at, np.array(table)) for name, table in tables.items()}

    def alarms(self, monitor: Monitor, series: dict[str, Slots], days: int) -> list[list[str]]:
        """The columns that each judged day alarms about."""
        found = []
        for day in range(KEPT, KEPT + days):
            begin = day + 1 - 67
            held = {
                name: Slots(slots.at[max(begin, 0) : day + 1], slots.cells[max(begin, 0) : day + 1])
                for name, slots in series.items()
            }
            judged = judge_drift(monitor, EMPTY, self.reference, START + (day + 1) * DAY, history=held)
            found.append([str(f.measurement.detail["column"]) for f in judged if f.verdict is Verdict.FAIL])
        return found

    def changed(self, change: str, size: float) -> dict[str, Slots]:
        """The kept days unchanged, then those with a change."""
        after = self.counted(range(TAUGHT + KEPT, TAUGHT + KEPT + WATCHED), change, size)
        return {
            name: Slots(
                np.concatenate([self.quiet[name].at[:KEPT], slots.at]),
                np.concatenate([self.quiet[name].cells[:KEPT], slots.cells]),
            )
            for name, slots in after.items()
        }


EMPTY = pa.table({"event_time": pa.array([], pa.timestamp("us", "UTC")), "version": pa.array([], pa.int32()),
                  "score": pa.array([], pa.float64())})  # fmt: skip


def lines(streams: int) -> Iterator[str]:
    """The tables, as Markdown."""
    begun: dict[str, list[int]] = {name: [] for name in MONITORS}
    whose: dict[str, int] = dict.fromkeys(SERIES, 0)
    found: dict[tuple[str, float], dict[str, list[tuple[int, Sequence[str]]]]] = {}
    for seed in range(streams):
        stream = Stream(seed)
        for name, monitor in MONITORS.items():
            told = stream.alarms(monitor, stream.quiet, QUIET)
            starts = [day for day, columns in enumerate(told) if columns and not (day and told[day - 1])]
            begun[name].append(len(starts))
            for day in starts:
                for column in told[day]:
                    whose[column] += 1
        for what, (change, sizes) in CHANGES.items():
            for size in sizes:
                series = stream.changed(change, size)
                for name, monitor in MONITORS.items():
                    told = stream.alarms(monitor, series, WATCHED)
                    first = next(((day + 1, columns) for day, columns in enumerate(told) if columns), None)
                    held = found.setdefault((what, size), {}).setdefault(name, [])
                    held += [first] if first is not None else []
    yield f"| monitor | streams x days | budget | false alarms in 30 days |\n|{'---|' * 4}"
    for name, counts in begun.items():
        monthly = np.array(counts) * 30 / QUIET
        error = float(monthly.std(ddof=1)) / len(counts) ** 0.5 if len(counts) > 1 else float("nan")
        yield f"| {name} | {streams} x {QUIET} | {MONITORS[name].budget:g} | {monthly.mean():.2f} +- {error:.2f} |"
    yield "\ncolumns in false alarms: " + ", ".join(f"{name} {count}" for name, count in whose.items()) + "\n"
    yield f"| change | size | {' | '.join(MONITORS)} | named first |\n|{'---|' * (3 + len(MONITORS))}"
    for (what, size), told in found.items():
        cells = []
        for seen in told.values():
            share = len(seen) / streams
            cells.append(f"{share:.0%} ({np.median([day for day, _ in seen]):.0f} d)" if seen else "0 %")
        columns = [column for _, each in told["practical=0.005"] for column in each]
        named = sorted(set(columns), key=lambda c: (-columns.count(c), c))
        top = ", ".join(f"`{c}`" for c in named if columns.count(c) >= max(1, streams / 4))
        unit = f"+{size:.0%}" if what == "longer texts" else f"+{100 * size:.0f} points"
        yield f"| {what} | {unit} | {' | '.join(cells)} | {top} |".replace("%", " %").replace("  %", " %")


def short() -> Iterator[str]:
    """How many texts of few words are told rightly, wrongly, or not at all."""
    yield f"| language | words | told rightly | another language | `short` or `unknown` |\n|{'---|' * 5}"
    rng = np.random.default_rng(0)
    for name, code, known in zip(WORDS, ("en", "fr", "de"), LISTS, strict=True):
        odds = 1 / np.arange(3, len(known) + 3)
        for count in (2, 4, 6, 12):
            texts = pa.array([" ".join(rng.choice(known, count, p=odds / odds.sum())) for _ in range(500)])
            found = np.array(languages(texts, np.ones(500, dtype=bool)))
            right, undecided = (found == code).mean(), np.isin(found, (SHORT, UNKNOWN)).mean()
            yield f"| {name} | {count} | {right:.1%} | {1 - right - undecided:.1%} | {undecided:.1%} |".replace(
                "%", " %"
            )


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--streams", type=int, default=12)
    options.add_argument("--short", action="store_true")
    given = options.parse_args()
    for line in short() if given.short else lines(given.streams):
        print(line, flush=True)


if __name__ == "__main__":
    main()
