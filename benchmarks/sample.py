"""Samples: what one measurement gave, and the medians, spreads and ratios that are made of them."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sample:
    """One measurement of one contender. `metrics` are numbers by name, the unit last in each name."""

    workload: str
    case: str
    contender: str
    round: int
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Spread:
    """The median of several rounds, and the least and the greatest of them."""

    median: float
    least: float
    most: float


class Samples:
    """All samples of a run, in the order in which they were taken."""

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        self.all = list(samples)

    def of(self, workload: str, case: str, contender: str) -> list[Sample]:
        """The samples of one place, by round."""
        return [s for s in self.all if (s.workload, s.case, s.contender) == (workload, case, contender)]

    def cases(self, workload: str) -> list[str]:
        """The cases of a workload, as they came."""
        return list(dict.fromkeys(s.case for s in self.all if s.workload == workload))

    def contenders(self, workload: str, case: str) -> list[str]:
        """Who was measured in a case, as they came."""
        return list(dict.fromkeys(s.contender for s in self.all if (s.workload, s.case) == (workload, case)))

    def spread(self, workload: str, case: str, contender: str, metric: str) -> Spread | None:
        """Median, least and most of a metric over all rounds; None if it was not measured."""
        return spread([s.metrics[metric] for s in self.of(workload, case, contender) if metric in s.metrics])

    def ratio(self, workload: str, case: str, contender: str, other: str, metric: str) -> Spread | None:
        """`contender` as a multiple of `other`, each round against the same round."""
        others = {s.round: s.metrics.get(metric) for s in self.of(workload, case, other)}
        found = []
        for sample in self.of(workload, case, contender):
            divisor = others.get(sample.round)
            if divisor and metric in sample.metrics:
                found.append(sample.metrics[metric] / divisor)
        return spread(found)


def spread(values: Sequence[float]) -> Spread | None:
    """The spread of some numbers; None if there are none."""
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def quantile(ordered: Sequence[float], part: float) -> float:
    """The value below which `part` (0 to 1) of the sorted numbers lie; 0 if there are none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0
