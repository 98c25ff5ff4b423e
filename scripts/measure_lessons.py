"""What the workshop's lessons take of a computer: prints the figures of docs/workshop.md.

Each is run, solved, in a kernel of its own with one thread.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

import shrinkwidget as sw

# of the kernel itself, which takes part: importing torch is the largest single cost
MEASURE = """
import json, resource, sys

_used = resource.getrusage(resource.RUSAGE_SELF)
_unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kB elsewhere
print(json.dumps({"seconds": _used.ru_utime + _used.ru_stime, "bytes": _used.ru_maxrss * _unit}))
"""


def main() -> None:
    """Run the lessons, and print what each took."""
    os.environ["OMP_NUM_THREADS"] = "1"
    print("| lesson | minutes of a learner | CPU seconds, one thread | peak memory of the kernel |")
    print("| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        sw.workshop.copy_lessons(folder, solutions=True)
        for lesson in sw.workshop.lessons():
            path = Path(folder, "solutions", lesson.file)
            book = nbformat.read(path, as_version=4)
            book.cells.append(nbformat.v4.new_code_cell(MEASURE))
            where = {"metadata": {"path": path.parent}}
            NotebookClient(book, timeout=300, kernel_name="python3", resources=where).execute()
            used = json.loads(book.cells[-1].outputs[-1].text)
            took = f"{used['seconds']:.0f} | {used['bytes'] / 1e6:.0f} MB"
            print(f"| {lesson.file.partition('-')[0]}. {lesson.title} | {lesson.minutes} | {took} |", flush=True)


if __name__ == "__main__":
    main()
