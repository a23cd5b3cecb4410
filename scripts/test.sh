#!/usr/bin/env bash
# Lint, types, tests: bash scripts/test.sh [--fast] [options of pytest]
# --fast leaves out what trains or starts processes, and three quarters of the cases of what is
# exhaustive, see tests/conftest.py: two minutes.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
ruff check .
ruff format --check .
ty check
lint-imports --no-logo --no-cache
[ "${1:-}" != --fast ] || set -- -m "not slow" "${@:2}"
# One thread a process: two spinning thread pools on two cores wait for each other.
# `worksteal` keeps a module on one worker, and what its tests share is made once.
OMP_NUM_THREADS=1 python -m pytest --numprocesses "${WORKERS:-2}" --dist worksteal "$@"
