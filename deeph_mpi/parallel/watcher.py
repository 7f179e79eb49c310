"""The process that reads what ranks note of their progress: run as a program, with the standard library alone.

Arguments: the folder of the notes; seconds without progress; the process to end then, 0 for none; 1 when the folder around
was made for the notes. It ends, and removes the folder, when its standard input is closed: that of rank 0, however it ended.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path

__all__ = ["LENGTH", "report", "silent_ranks"]

LENGTH = 240  # bytes of a note: time, process, host, stage


def silent_ranks(folder: Path, limit: float, now: float) -> list[tuple[float, int, str, str, str]]:
    """(time of the last progress, rank, process, host, stage) of ranks without progress, the longest silent first."""
    found = []
    for path in folder.glob("beat.*"):
        words = path.read_text(errors="replace").strip().split("\t")
        if len(words) == 4 and now - float(words[0]) >= limit:
            found.append((float(words[0]), int(path.suffix[1:]), words[1], words[2], words[3]))
    return sorted(found)


def report(folder: Path, silent: list[tuple[float, int, str, str, str]], ranks: int, now: float) -> str:
    """What there is to say about them."""
    lines = [f"deeph-mpi: watchdog: {len(silent)} of {ranks} ranks without progress, the longest silent first"]
    for last, rank, process, host, stage in silent[:8]:
        since = time.strftime("%H:%M:%S", time.localtime(last))
        lines.append(
            f"rank {rank} (process {process} on {host}): {stage}, since {since}, {(now - last) / 60:.1f} min ago"
        )
        stack = folder / f"stack.{rank}"
        if stack.exists():
            lines += [f"    {line}" for line in stack.read_text(errors="replace").splitlines()[1:24]]
    if len(silent) > 8:
        lines.append(f"and ranks {', '.join(str(one[1]) for one in silent[8:])}")
    return "\n".join(lines) + "\n"


def _watch(folder: Path, limit: float, victim: int) -> None:
    told: list[tuple[float, int]] = []
    while not select.select([sys.stdin], [], [], min(limit / 4, 10.0))[0]:
        now = time.time()
        silent = silent_ranks(folder, limit, now)
        present = [one[:2] for one in silent]
        if not silent or all(one in told for one in present):
            continue
        told = present
        text = report(folder, silent, len(list(folder.glob("beat.*"))), now)
        if victim:
            text += "the run is ended (run.watchdog_abort)\n"
        os.write(2, text.encode())
        if victim:
            time.sleep(0.5)
            os.kill(victim, signal.SIGKILL)
            return


def main() -> None:
    """See above."""
    folder, limit, victim, made = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1"
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # they are for the ranks; this ends with rank 0
    try:
        _watch(folder, limit, victim)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):  # there are results in it
                folder.parent.rmdir()


if __name__ == "__main__":
    main()
