"""`python -m benchmarks.gpu PART`: measure on a GPU, write PART.json, print its table. On a CPU alone: --quick."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any, Final

PARTS: Final = ("engine", "training")
HERE: Final = Path(__file__).parent


def main() -> None:
    """Do the part asked for."""
    asked = _asked()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: trainings run side by side
    import torch

    from ..retraining.resumable_tasks_and_results import Store, run
    from . import engine_and_training_step_on_gpu, resnet20_fashion_mnist

    if not torch.cuda.is_available() and not asked.quick:
        raise SystemExit("there is no GPU here: --quick runs everything in small on the CPU, to see that it runs")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if asked.part == "engine":
        rows = []
        for row in engine_and_training_step_on_gpu.rows(device, asked.quick):
            rows.append(row)
            print(row, flush=True)
        _write(asked.to / "engine.json", machine(device), rows)
        return
    start = time.monotonic()
    setup = resnet20_fashion_mnist.setup_of(asked.quick, asked.method)
    store = Store(asked.to / "training.json", {**resnet20_fashion_mnist.settings(setup), **machine(device)})
    # each network leaves most of a GPU idle: the seeds share it
    run(resnet20_fashion_mnist.tasks(setup, asked.data, asked.seeds, device), store, asked.jobs)
    store.close(resnet20_fashion_mnist.summary(store.cells), time.monotonic() - start)
    print(json.dumps(store.summary, indent=1))


def machine(device: Any) -> dict[str, Any]:
    """Return the GPU, the CPU, and the versions."""
    import torch

    from ..machine_info_and_wait_for_calm import hardware

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    return {"gpu": name, **hardware("numpy"), "torch": torch.__version__}


def _write(path: Path, about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    lines = ",\n    ".join(json.dumps(row) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{\n  "machine": {json.dumps(about)},\n  "rows": [\n    {lines}\n  ]\n}}\n')


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("part", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="in small, on the CPU too; the figures mean nothing")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--method", action="append", default=[], help="of the training, only this; repeat it")
    parser.add_argument("--jobs", type=int, default=3, help="trainings at once")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder of fashion-mnist")
    parser.add_argument("--to", type=Path, default=HERE, help="the folder of the results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
