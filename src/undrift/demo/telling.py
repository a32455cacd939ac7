"""What the demo says on the terminal: the contract, the first model, and the table at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from undrift.data.contract import Contract
from undrift.demo.scoreboard import Scoreboard
from undrift.demo.truth import Gain
from undrift.lifecycle import Trained

__all__ = ["tell_contract", "tell_scoreboard", "tell_trained"]

Say = Callable[[str], None]
WIDTHS = (10, 22, 62, 78, 5, 7, 12)


def tell_contract(text: str, folder: Path, say: Say) -> None:
    """The inferred contract, shortened; the whole stands in contract.yaml."""
    contract = Contract.from_odcs(text)
    say(f"contract inferred from the flights before we go live, written to {folder / 'contract.yaml'}:")
    for field in contract.fields:
        rules: list[str] = [field.type, field.role]
        if field.minimum is not None or field.maximum is not None:
            rules.append(f"{field.minimum:g}..{field.maximum:g}")
        if field.categories:
            rules.append(f"one of {len(field.categories)}: {', '.join(field.categories[:6])}, ...")
        say(f"  {field.name:<20} {', '.join(rules)}")


def tell_trained(trained: Trained, say: Say) -> None:
    """What training and the gate said of the first model."""
    say(
        f"version {trained.version} of {trained.model}: dataset {trained.dataset}, {trained.rows:,} rows, "
        f"{trained.quarantined} quarantined, run {trained.run_id}"
    )
    say("  held-out: " + ", ".join(f"{name} {value:.4f}" for name, value in sorted(trained.metrics.items())))
    reason = trained.compiled.get("reason")
    held = "compiled to ONNX, parity held" if trained.compiled.get("held") else f"served natively: {reason}"
    say(f"  {held}; gate {trained.report.verdict.name}: {trained.report.findings[0].why}")


def tell_scoreboard(
    board: Scoreboard, say: Say, *, prepared: float, replayed: float, requests: int, report: Path
) -> None:
    """The table of decisions, the table of months, and the sentence at the end."""
    say("")
    say("What happened, what undrift did, and what was true")
    say(_line(("date", "what", "truth", "undrift", "after", "exposed", "verdict")))
    say(_line(tuple("-" * width for width in WIDTHS)))
    for row in board.rows:
        say(_line((row.at, row.what, row.truth, row.undrift, row.delay, row.exposed, row.verdict)))
    say("")
    say("Log loss and AUC by month: as served, and had the first model never been updated")
    say("month     flights   late  version   served    never     gain     AUC   never")
    for month in board.months:
        say(
            f"{month.name:<8} {month.n:>8,} {month.late:>6.1%} {month.champion:>8} {month.served:>8.4f} "
            f"{month.never:>8.4f} {month.never - month.served:>+8.4f} {month.served_auc:>7.4f} {month.never_auc:>7.4f}"
        )
    say("")
    say(
        f"{board.caught} of {board.planted} planted failures caught; {board.false_alarms} false alarms "
        f"(budget {board.budget:.0f}); {board.promoted} challengers became champion, {board.refused} retrains refused; "
        f"log loss {board.served:.4f} against {board.never:.4f} never updated."
    )
    say(
        f"what updates saved in log loss: {_gain(board.gain)} over the whole run, {_gain(board.final_gain)} since the "
        f"last champion took over ({board.final_gain.since}); 95 % intervals by days"
    )
    say(f"report: {report}")
    say(
        f"took {prepared:.0f} s to prepare and train, {replayed:.0f} s to replay {board.predictions:,} predictions "
        f"({requests:,} requests)"
    )


def _gain(gain: Gain) -> str:
    return f"{gain.value:+.4f} [{gain.lower:+.4f}, {gain.upper:+.4f}]"


def _line(cells: Sequence[str]) -> str:
    return " ".join(_fit(cell, width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()


def _fit(text: str, width: int) -> str:
    return f"{text if len(text) <= width else text[: width - 1] + '…':<{width}}"
