# Sourced by the scripts beside it: makes .venv with the tested versions, and goes into it. A .venv
# that was left half made, or whose Python is gone or too old, is mended or made anew.
# PYTHON names the interpreter to make it with (3.11 or newer; default python3). `extras` says what
# is installed beside the package: all that its tests need, or nothing if it is empty.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
trap 'echo "stopped; the same command goes on" >&2; exit 130' INT

python="${PYTHON:-python3}"

fail() {
    echo "error: $1" >&2
    exit 1
}

# Print the version of an interpreter, such as 3.11; fail if it is not there or does not run.
version() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

has_pip() {
    .venv/bin/python -m pip --version >/dev/null 2>&1
}

make_venv() {
    local remedy="install Python 3.11 or newer, or name one: PYTHON=/path/to/python3.11 bash $0" said
    command -v "$python" >/dev/null || fail "there is no interpreter $python; $remedy"
    found="$(version "$python")" || fail "$(command -v "$python") does not run; $remedy"
    new_enough "$python" || fail "$(command -v "$python") is Python $found; $remedy"
    echo "making .venv with Python $found ($(command -v "$python"))"
    said="$("$python" -m venv --clear .venv 2>&1)" || fail "$python -m venv: $said"
}

install() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --constraint constraints.txt "$@" >> .venv/install.log 2>&1 ||
        fail "pip could not install $*; the end of .venv/install.log:
$(tail -n 12 .venv/install.log)"
}

if [ ! -e .venv ]; then
    make_venv
elif ! new_enough .venv/bin/python; then
    had="Python $(version .venv/bin/python), too old" || had="no Python that runs"
    echo "the .venv that is there has $had"
    make_venv
elif ! has_pip; then
    echo "the .venv that is there is half made"
    { .venv/bin/python -m ensurepip >/dev/null 2>&1 && has_pip; } || make_venv
fi

# Installed once per state of the files that decide what is installed.
state="$(cat pyproject.toml constraints.txt | cksum | tr -d ' ')"
extras="${extras-[dev]}"
has="$(cat .venv/installed 2>/dev/null || true)"
if [ "$has" != "$state[dev]" ] && [ "$has" != "$state$extras" ]; then
    echo "installing (a few minutes the first time; what pip says is in .venv/install.log)"
    : > .venv/install.log
    install torch  # first: a plain range would let pip choose another build than the tested one
    install --editable ".$extras"
    echo "$state$extras" > .venv/installed
fi
export PATH="$PWD/.venv/bin:$PATH"
trap - INT
