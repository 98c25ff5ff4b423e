"""The command ``shrinkwidget``, or ``python -m shrinkwidget``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from . import __version__
from .errors import ShrinkError


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(prog="shrinkwidget", description="Make neural networks smaller in JupyterLab.")
    parser.add_argument("--version", action="version", version=f"shrinkwidget {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    workshop = commands.add_parser(
        "workshop",
        help="copy the lessons into a folder, and open JupyterLab there",
        description="Copy the lessons into a folder, and open the first in JupyterLab. What you have changed there is "
        "never written over.",
    )
    workshop.add_argument("folder", nargs="?", default="shrinkwidget-workshop", help="default: %(default)s")
    workshop.add_argument("--list", action="store_true", help="only say which lessons there are")
    workshop.add_argument("--solutions", action="store_true", help="write the solved lessons, too")
    workshop.add_argument("--nbgrader", action="store_true", help="only write them as assignments for nbgrader")
    workshop.add_argument("--no-browser", action="store_true", help="start JupyterLab, but open no browser")
    workshop.add_argument("--no-jupyter", action="store_true", help="only copy")
    asked = parser.parse_args(words)
    try:
        return _workshop(asked)
    except ShrinkError as error:
        print(f"shrinkwidget workshop: {error}", file=sys.stderr)  # noqa: T201
        return 1


def _workshop(asked: argparse.Namespace) -> int:
    from .workshop import copy_lessons, lessons

    if asked.list:
        for lesson in lessons():
            print(f"{lesson.file:28} {lesson.minutes} minutes  {lesson.title}: {lesson.goals}")  # noqa: T201
        return 0
    for line in copy_lessons(asked.folder, asked.solutions, nbgrader=asked.nbgrader):
        print(line, flush=True)  # noqa: T201
    if asked.no_jupyter or asked.nbgrader:
        return 0
    if find_spec("jupyterlab") is None:
        print(f'The lessons are in {asked.folder}. To open them: pip install "shrinkwidget[jupyter]"')  # noqa: T201
        return 1
    # the first lesson, also at the address that is printed where no browser opens
    place = [
        f"--ServerApp.root_dir={Path(asked.folder).resolve()}",
        f"--LabApp.default_url=/lab/tree/{lessons()[0].file}",
    ]
    command = [sys.executable, "-m", "jupyterlab", *place]
    if asked.no_browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # as in most containers, where JupyterLab would refuse to start
        command.append("--allow-root")
    try:
        return subprocess.call(command)
    except KeyboardInterrupt:  # JupyterLab had it, too, and has ended
        return 0


if __name__ == "__main__":
    sys.exit(main())
