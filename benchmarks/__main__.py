"""`python -m benchmarks [PART …] [--patience SECONDS]`: measure, print one table, write results.json."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from . import (
    browser_drag,
    browser_estimator,
    checkpoint_server,
    checkpoint_viewer,
    engine_speed,
    file_sizes_beside_torchao,
    machine_info_and_wait_for_calm,
    scale,
    startup_time,
)
from .result_rows_and_timing import Row
from .results_table import markdown

RESULTS: Final = Path(__file__).parent / "results.json"
PARTS: Final[dict[str, Callable[[machine_info_and_wait_for_calm.Calm], Iterator[Row]]]] = {
    "page": browser_drag.rows,
    "processes": startup_time.rows,
    "engine": engine_speed.rows,
    "sizes": file_sizes_beside_torchao.rows,
    "core": browser_estimator.rows,
    "checkpoints": checkpoint_server.rows,
    "viewer": checkpoint_viewer.rows,
    "scale": scale.rows,
}


def main() -> None:
    """Run the parts asked for, all by default; only a full run writes the results."""
    options = _options()
    described = machine_info_and_wait_for_calm.describe()
    print(", ".join(f"{name} {value}" for name, value in described.items()), flush=True)
    rows: list[Row] = []
    others: dict[str, Any] = {}
    for part in options.parts or PARTS:
        calm = machine_info_and_wait_for_calm.Calm(options.patience)
        for row in PARTS[part](calm):
            rows.append(row)
            print("   ", row.what, f"{row.measured:.4g} {row.unit}", flush=True)
        others[part] = calm.to_dict()
        print(f"{part}: share of the cores that others used meanwhile: {others[part]}", flush=True)
    print(markdown(rows))
    if not options.parts:
        _write({"machine": described, "share of the cores in use by others": others}, rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=", ".join(PARTS))
    parser.add_argument(
        "--patience", type=float, default=60, help="seconds to wait in each part for other programs to rest"
    )
    return parser.parse_args()


def _write(about: dict[str, Any], rows: list[Row]) -> None:
    text = json.dumps({**about, "rows": [row.to_dict() for row in rows]}, indent=2, ensure_ascii=False)
    RESULTS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
