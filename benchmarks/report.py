"""Report: the samples of a run as aligned Markdown tables and as JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.goals import Goal
from benchmarks.sample import Samples, Spread
from benchmarks.workloads.base import Column


class Said:
    """What a run says besides its samples: the machine, versions, durability modes, and what was skipped and why."""

    def __init__(
        self,
        machine: Mapping[str, str],
        versions: Mapping[str, str],
        durability: Mapping[str, str],
        skipped: Mapping[str, str],
    ) -> None:
        self.machine = dict(machine)
        self.versions = dict(versions)
        self.durability = dict(durability)
        self.skipped = dict(skipped)

    def tables(self) -> str:
        """All of it in Markdown."""
        parts = [table(["machine", ""], [[name, value] for name, value in self.machine.items()])]
        names = dict.fromkeys([*self.durability, *self.versions])
        rows = [[name, self.versions.get(name, ""), self.durability.get(name, "")] for name in names]
        parts.append(table(["contender", "version", "what an acknowledged message survives"], rows))
        if self.skipped:
            parts.append(table(["skipped", "why"], [[name, why] for name, why in self.skipped.items()]))
        return "\n\n".join(parts)


def workload_table(samples: Samples, name: str, columns: Sequence[Column], basis: str) -> str:
    """One workload: a row for each case and contender; of the first column also the spread, and the bus's ratio."""
    first = columns[0]
    heads = ["case", "contender", first.heading, "least - most", f"{basis} / it", *(c.heading for c in columns[1:])]
    rows = []
    for case in samples.cases(name):
        for contender in samples.contenders(name, case):
            main = samples.spread(name, case, contender, first.metric)
            ratio = None
            if contender != basis:
                ratio = samples.ratio(name, case, basis, contender, first.metric)
            rows.append(
                [
                    case,
                    contender,
                    _number(main, first.digits),
                    f"{main.least:,.{first.digits}f} - {main.most:,.{first.digits}f}" if main else "",
                    _number(ratio, 2),
                    *(_number(samples.spread(name, case, contender, c.metric), c.digits) for c in columns[1:]),
                ]
            )
    used = [at for at in range(len(heads)) if at < 2 or any(row[at] for row in rows)]
    return table([heads[at] for at in used], [[row[at] for at in used] for row in rows])


def goals_table(goals: Sequence[Goal], samples: Samples) -> str:
    """Each goal, what was measured, and whether it is met."""
    rows = [[goal.work, goal.wanted, *goal.verdict(samples)] for goal in goals]
    return table(["work", "goal", "measured", "met"], rows)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, aligned so that it reads as plain text too; columns of numbers to the right."""
    widths = [max(len(row[at]) for row in [heads, *rows]) for at in range(len(heads))]
    right = [bool(rows) and all(_is_number(row[at]) for row in rows) for at in range(len(heads))]

    def line(cells: Sequence[str]) -> str:
        padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True))
        return f"| {' | '.join(padded)} |"

    marks = ("-" * (w - 1) + ":" if r else "-" * w for w, r in zip(widths, right, strict=True))
    return "\n".join([line(heads), f"| {' | '.join(marks)} |", *map(line, rows)])


def write_json(path: Path, said: Said, samples: Samples, goals: Sequence[Goal]) -> None:
    """Everything that a program may want to read."""
    written: dict[str, Any] = {
        "machine": said.machine,
        "versions": said.versions,
        "durability": said.durability,
        "skipped": said.skipped,
        "goals": [
            dict(zip(("work", "goal", "measured", "met"), (g.work, g.wanted, *g.verdict(samples)), strict=True))
            for g in goals
        ],
        "samples": [
            {
                "workload": s.workload,
                "case": s.case,
                "contender": s.contender,
                "round": s.round,
                **{name: round(value, 6) for name, value in s.metrics.items()},
            }
            for s in samples.all
        ],
    }
    path.write_text(json.dumps(written, indent=1) + "\n")


def _number(found: Spread | None, digits: int) -> str:
    return f"{found.median:,.{digits}f}" if found else ""


def _is_number(text: str) -> bool:
    return not text.strip("0123456789.,-x% ")
