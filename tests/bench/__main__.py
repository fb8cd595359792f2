"""``python -m tests.bench [NAME…] [OPTIONS]``: run measurements one after another, each in a process of its own."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

from harness.errors import nearest

HELPERS = {"__main__", "landscape_world", "report", "workload"}


def main() -> int:
    names = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in HELPERS)
    given = sys.argv[1:]
    wanted = list(itertools.takewhile(lambda argument: not argument.startswith("-"), given))
    options = given[len(wanted) :]
    for name in wanted:
        if name not in names:
            print(f"no measurement {name!r}; {nearest(name, names)}", file=sys.stderr)
            return 2
    failed = [
        name
        for name in wanted or names
        if subprocess.run((sys.executable, "-m", f"tests.bench.{name}", *options), check=False).returncode
    ]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
