"""Workload: a kind of work, its cases and who does it; and the setting in which all of them are measured."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from benchmarks.contenders.base import Contender
from benchmarks.peers import Cache, Missing


@dataclass
class Setting:
    """What a run was asked for. `seconds` is the length of one measurement; `say` prints a line for people.

    `data` is where contenders keep their data, on the disk that counts. `sizes` are those of the workload `growth`.
    """

    cache: Cache
    data: Path
    say: Callable[[str], None]
    rounds: int = 5
    seconds: float = 3.0
    quick: bool = False
    peers: bool = True
    sizes: Sequence[int] = ()
    skipped: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    durability: dict[str, str] = field(default_factory=dict)

    def available(self, kinds: Sequence[type[Contender]]) -> list[Contender]:
        """One of each kind that can be had here; of the others the reason is said, once."""
        found: list[Contender] = []
        for kind in kinds:
            one = kind(self.cache)
            if kind.name in self.skipped:
                continue
            try:
                if kind.name != "bus":
                    if not self.peers:
                        raise Missing("left out as asked (PEERS=0)")
                    one.prepare()
                self.versions.setdefault(kind.name, one.version())
                self.durability.setdefault(kind.name, kind.durability)
            except Missing as error:
                self.skipped[kind.name] = str(error)
                self.say(f"skipped: {kind.name}: {error}")
                continue
            found.append(one)
        return found

    def fresh(self, name: str) -> Path:
        """A folder for data that does not exist yet."""
        folder = self.data / name.replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        return folder


@dataclass(frozen=True)
class Column:
    """A metric as a column of the table. `better` says which way is good, for the ratio to be read."""

    metric: str
    heading: str
    digits: int = 1
    better: str = "less"


class Workload(ABC):
    """A kind of work. The first column's metric is the one that ratios and plots are made of."""

    name: ClassVar[str]
    title: ClassVar[str]
    columns: ClassVar[tuple[Column, ...]]
    #: Against whom ratios are told.
    basis: ClassVar[str] = "bus"

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    @property
    def rounds(self) -> int:
        """How often everything is measured."""
        return self.setting.rounds

    @abstractmethod
    def cases(self) -> list[str]:
        """What is varied."""

    @abstractmethod
    def contenders(self) -> list[str]:
        """Who takes part, in the order of turns."""

    @abstractmethod
    def measure(self, contender: str, case: str) -> dict[str, float] | None:
        """One measurement; None if this contender does not do this. Raises LoadFailed."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Whatever has to run meanwhile."""
        yield


@contextmanager
def started(contenders: dict[str, Contender], setting: Setting, workload: str) -> Iterator[None]:
    """The contenders, started with empty data; ended, and their data removed, when the block ends.

    One that does not start is said to be skipped, and taken out of `contenders`.
    """
    every = list(contenders.items())
    try:
        for name, one in every:
            try:
                one.start(setting.fresh(f"{workload}-{name}"))
            except RuntimeError as error:
                del contenders[name]
                setting.skipped[name] = f"it did not start: {' '.join(str(error).split())[-200:]}"
                setting.say(f"skipped: {name}: {setting.skipped[name]}")
        yield
    finally:
        for _, one in every:
            one.stop()
        shutil.rmtree(setting.data, ignore_errors=True)
