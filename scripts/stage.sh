#!/bin/sh
# Runs one stage of `make test` and says how long it took: stage.sh NAME COMMAND…
name=$1
shift
echo
echo "── $name ──"
start=$(date +%s)
"$@"
status=$?
echo "── $name: $(($(date +%s) - start)) s, $([ $status -eq 0 ] && echo passed || echo FAILED) ──"
exit $status
