#!/bin/sh
# Prints the Python that .venv is made with: $PYTHON, or the first on PATH that is new enough; or says what is missing.
for python in ${PYTHON:-python3 python python3.14 python3.13 python3.12 python3.11}; do
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        echo "shrinkwidget: $python cannot make a virtual environment: install its venv module (Debian: apt install python3-venv)." >&2
        exit 1
    fi
    echo "$python"
    exit 0
done
echo "shrinkwidget needs Python 3.11 or newer, and found $("${PYTHON:-python3}" --version 2>/dev/null || echo none): install one, or name it: make demo PYTHON=/path/to/python3" >&2
exit 1
