"""`make bench`: measures the bus beside its peers, in turns, and writes tables, plots and all samples into a folder."""

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.goals import GOALS
from benchmarks.load.drive import ROOT
from benchmarks.machine import describe
from benchmarks.peers import Cache
from benchmarks.plot import bars
from benchmarks.report import Said, goals_table, table, workload_table, write_json
from benchmarks.sample import Sample, Samples
from benchmarks.workloads.append import Append
from benchmarks.workloads.base import Setting, Workload
from benchmarks.workloads.cost import Cost
from benchmarks.workloads.fanout import Fanout
from benchmarks.workloads.growth import Growth
from benchmarks.workloads.overload import Overload
from benchmarks.workloads.replay import Replay
from benchmarks.workloads.wake import Wake

WORKLOADS: dict[str, type[Workload]] = {
    kind.name: kind for kind in (Append, Fanout, Replay, Wake, Growth, Cost, Overload)
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as asked; 0, or 1 if a measurement failed."""
    asked = _parser().parse_args(arguments)
    names = [name for name in asked.only.split(",") if name] or list(WORKLOADS)
    unknown = set(names) - set(WORKLOADS)
    if unknown:
        print(
            f"bench: no such workload: {', '.join(sorted(unknown))}; there are {', '.join(WORKLOADS)}", file=sys.stderr
        )
        return 2
    # Ended from outside, it ends what it started as at Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: ended by SIGTERM"))
    cache = Path(asked.cache).absolute()
    setting = Setting(
        cache=Cache(cache),
        data=cache / "data",
        say=lambda text: print(text, flush=True),
        rounds=asked.rounds or (1 if asked.quick else 5),
        seconds=asked.seconds or (1.0 if asked.quick else 3.0),
        quick=asked.quick,
        peers=asked.peers,
        sizes=[int(float(size)) for size in (asked.sizes or ("1e4,5e4" if asked.quick else "1e4,1e6,1e7")).split(",")],
    )
    cache.mkdir(parents=True, exist_ok=True)
    machine = describe(cache)
    setting.say(table(["machine", ""], [list(row) for row in machine.items()]))
    samples = Samples()
    workloads = []
    failed = 0
    for name in names:
        workload = WORKLOADS[name](setting)
        workloads.append(workload)
        failed += _measure(workload, samples)
        setting.say("\n" + _section(workload, samples))
    said = Said(machine, setting.versions, setting.durability, setting.skipped)
    out = Path(asked.out).absolute()
    _write(out, said, samples, workloads)
    setting.say(f"\n{said.tables()}\n\n{goals_table(GOALS, samples)}\n\nwritten to {asked.out}")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", default="", help=f"workloads, with commas: {','.join(WORKLOADS)}")
    parser.add_argument("--rounds", type=int, default=0, help="how often everything is measured (5)")
    parser.add_argument("--seconds", type=float, default=0.0, help="length of one measurement (3)")
    parser.add_argument("--quick", action="store_true", help="fewer cases, one round of one second each")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="the bus alone")
    parser.add_argument("--sizes", default="", help="events in the logs of `growth`, smallest first (1e4,1e6,1e7)")
    parser.add_argument("--out", default="benchmarks/results/new", help="where to write tables, plots and samples")
    parser.add_argument("--cache", default=str(ROOT / "var" / "bench"), help="where peers and built logs are kept")
    return parser


def _measure(workload: Workload, samples: Samples) -> int:
    """All rounds of a workload, every case with all contenders in turns; how many measurements failed."""
    setting = workload.setting
    failed = 0
    with workload.running():
        for turn in range(workload.rounds):
            for case in workload.cases():
                for contender in workload.contenders():
                    began = time.monotonic()
                    try:
                        metrics = workload.measure(contender, case)
                    except RuntimeError as error:
                        setting.say(f"failed: {workload.name}, {case}, {contender}: {error}")
                        failed += 1
                        continue
                    if metrics is not None:
                        samples.all.append(Sample(workload.name, case, contender, turn, metrics))
                        turns, took = f"{turn + 1}/{workload.rounds}", f"({time.monotonic() - began:.0f} s)"
                        setting.say(f"{workload.name} {turns}  {case}  {contender}: {_first(workload, metrics)} {took}")
    return failed


def _first(workload: Workload, metrics: Mapping[str, float]) -> str:
    """The first of a workload's metrics that was measured."""
    column = next(column for column in workload.columns if column.metric in metrics)
    return f"{metrics[column.metric]:,.{column.digits}f} {column.heading}"


def _section(workload: Workload, samples: Samples) -> str:
    """A workload's table under its title."""
    return f"## {workload.title}\n\n{workload_table(samples, workload.name, workload.columns, workload.basis)}"


def _write(out: Path, said: Said, samples: Samples, workloads: Sequence[Workload]) -> None:
    """Tables, plots and samples into an empty folder."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    notes = [", ".join(f"{name} {value}" for name, value in list(said.machine.items())[:5])]
    parts = ["# Benchmarks: what one run measured", "## Goals", goals_table(GOALS, samples)]
    for workload in workloads:
        plot = bars(samples, workload.name, workload.title, workload.columns[0], notes, said.durability)
        if plot:
            (out / f"{workload.name}.svg").write_text(plot)
            parts += [_section(workload, samples), f"![{workload.title}]({workload.name}.svg)"]
    parts += ["## Machine, versions, durability", said.tables()]
    (out / "README.md").write_text("\n\n".join(parts) + "\n")
    write_json(out / "samples.json", said, samples, GOALS)


if __name__ == "__main__":
    sys.exit(main())
