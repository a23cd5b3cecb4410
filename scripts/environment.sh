# Sourced by the scripts beside it: makes .venv with the tested versions, and goes into it.
# PYTHON names the interpreter to make it with (3.11 or newer; default python3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="${PYTHON:-python3}"
if [ ! -x .venv/bin/python ]; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "error: $("$python" --version) is too old, Python 3.11 or newer is needed; set PYTHON=..." >&2
        exit 1
    }
    echo "making .venv"
    "$python" -m venv .venv
fi

# Installed once per state of the files that decide what is installed.
state="$(cat pyproject.toml constraints.txt | cksum | tr -d ' ')"
if [ "$(cat .venv/installed 2>/dev/null)" != "$state" ]; then
    echo "installing (a few minutes the first time)"
    # torch first: a plain range would let pip choose another build than the tested one
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --constraint constraints.txt torch
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --constraint constraints.txt --editable '.[dev]'
    echo "$state" > .venv/installed
fi
export PATH="$PWD/.venv/bin:$PATH"
