#!/bin/sh
# Correctness and speed on one GPU, in at most eight minutes; prints JSON. Needs torch, transformers, accelerate, pydantic
# (with pydantic-core, annotated-types and typing-inspection, as wheels where nothing can be fetched) and this checkout.
set -e
cd "$(dirname "$0")/../.."
export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True PYTHONPATH="$PWD:$PYTHONPATH"
exec timeout 480 python3 tests/gpu/measure.py "$@"
