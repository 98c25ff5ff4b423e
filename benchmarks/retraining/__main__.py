"""`python -m benchmarks.retraining PART [--seeds N] [--quick]`: train, write PART.json cell by cell, print its
table."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Final

PARTS: Final = ("headline", "settings_search", "narrow_race", "lenet", "fashion", "overhead", "figure")
HERE: Final = Path(__file__).parent


def main() -> None:
    """Do the part asked for; what its file has already is not done again."""
    asked = _asked()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: each process has one core
    import torch

    from . import (
        headline_cross_validation,
        narrow_race_in_onnxruntime,
        overhead,
        plot_accuracy_against_compression,
        results_tables,
        settings_search,
        train_accuracy_against_compression,
    )
    from .resumable_tasks_and_results import Store, run

    torch.set_num_threads(1)
    if asked.part == "figure":
        plot_accuracy_against_compression.write(asked.to)
        return
    start = time.monotonic()
    path = asked.to / f"{asked.part}.json"
    if asked.part == "narrow_race":
        print(narrow_race_in_onnxruntime.measure(path, rounds=2 if asked.quick else narrow_race_in_onnxruntime.ROUNDS))
        return
    if asked.part == "headline":
        store = Store(path, headline_cross_validation.settings(asked.quick))
        tasks = headline_cross_validation.tasks(
            headline_cross_validation.settings(asked.quick), asked.seeds, asked.quick, asked.method
        )
        run(tasks, store, asked.jobs)
    elif asked.part == "settings_search":
        store = Store(path, settings_search.settings(asked.quick))
        run(settings_search.tasks(settings_search.settings(asked.quick), asked.method), store, asked.jobs)
    elif asked.part == "overhead":
        store = Store(path, overhead.settings(asked.quick))
        run(overhead.tasks(asked.data, 1 if asked.quick else overhead.TURNS), store, 1)
    else:
        setup = train_accuracy_against_compression.setup_of(asked.part, asked.quick)
        store = Store(path, train_accuracy_against_compression.settings(setup))
        run(train_accuracy_against_compression.tasks(setup, asked.data, asked.seeds, asked.quick), store, asked.jobs)
    summaries = {
        "headline": headline_cross_validation.summary,
        "settings_search": settings_search.summary,
        "overhead": overhead.summary,
    }
    store.close(
        summaries.get(asked.part, train_accuracy_against_compression.summary)(store.cells), time.monotonic() - start
    )
    print(results_tables.markdown(asked.part, store.summary))


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retraining", description=__doc__)
    parser.add_argument("part", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; the figures mean nothing")
    parser.add_argument(
        "--method", action="append", default=[], help="of the headline or the search, only this; repeat it"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="the folder of mnist and fashion-mnist"
    )
    parser.add_argument("--to", type=Path, default=HERE, help="the folder of the results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
