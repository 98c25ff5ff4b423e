#!/bin/sh
# Says in one sentence what is missing where Node is absent or too old to build the JavaScript.
if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    echo "shrinkwidget needs Node 20 or newer to build its JavaScript, and found none: install Node with npm." >&2
    exit 1
fi
major=$(node -p 'process.versions.node.split(".")[0]')
if [ "$major" -lt 20 ]; then
    echo "shrinkwidget needs Node 20 or newer to build its JavaScript, and found $(node --version): install a newer one." >&2
    exit 1
fi
