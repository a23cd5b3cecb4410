#!/usr/bin/env bash
# Lint, types, tests: bash scripts/test.sh [options of pytest]
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
ruff check .
ruff format --check .
ty check
lint-imports --no-logo --no-cache
# One thread a process: two spinning thread pools on two cores wait for each other.
OMP_NUM_THREADS=1 python -m pytest --numprocesses "${WORKERS:-2}" "$@"
