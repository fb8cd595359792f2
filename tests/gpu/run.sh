#!/bin/sh
# Correctness and speed on one GPU, in at most eight minutes; prints JSON. Needs torch, transformers and this checkout.
set -e
cd "$(dirname "$0")/../.."
exec timeout 480 python tests/gpu/measure.py "$@"
