#!/usr/bin/env bash
# Parity with TRL, drop-in use, cuts of a step and the demo, with other versions than the tested
# ones: bash scripts/test_versions.sh lowest|newest|beyond [options of pytest, instead of these]
#   lowest  the lower bounds of pyproject.toml
#   newest  the newest that they allow
#   beyond  the newest trl, transformers and regex, whatever is allowed; it may fail
# They lie in .venv/<set>, over .venv, which keeps the tested ones. torch stays: the registry has
# builds without CUDA of few of its versions.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

which="${1:-}"
bounds() {
    python - "$which" <<'PY'
import sys, tomllib
from pathlib import Path
from packaging.requirements import Requirement

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
for required in map(Requirement, project["dependencies"]):
    lowest = [s.version for s in required.specifier if s.operator == ">="]
    if required.name != "torch":
        print(f"{required.name}=={lowest[0]}" if sys.argv[1] == "lowest" else required)
PY
}
case "$which" in
lowest | newest) asked="$(bounds)" ;;
beyond) asked=$'trl\ntransformers\nregex' ;;
*) fail "which versions? bash scripts/test_versions.sh lowest|newest|beyond" ;;
esac

over="$PWD/.venv/$which"
state="$(cat pyproject.toml constraints.txt "${BASH_SOURCE[0]}" | cksum | tr -d ' ')"
if [ "$which" != lowest ] || [ "$(cat "$over/installed" 2>/dev/null)" != "$state" ]; then
    echo "installing into .venv/$which (what pip says is in .venv/$which.log)"
    python -m venv --clear "$over"
    site="$("$over/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$site/tested.pth"
    grep '^torch==' constraints.txt > "$over/torch.txt"
    "$over/bin/python" -m pip install -qq --disable-pip-version-check --upgrade \
        --constraint "$over/torch.txt" $asked \
        > ".venv/$which.log" 2>&1 ||
        fail "pip could not install the $which set; the end of .venv/$which.log:
$(tail -n 12 ".venv/$which.log")"
    echo "$state" > "$over/installed"
fi
export PATH="$over/bin:$PATH" PYTHONPATH="$PWD"
python -m pip list --disable-pip-version-check 2>/dev/null |
    grep -E '^(accelerate|datasets|peft|pyarrow|regex|torch|transformers|trl) '
shift
[ $# -gt 0 ] || set -- tests/test_parity_with_trl.py tests/test_drop_in.py \
    tests/test_partition.py tests/test_seams.py
OMP_NUM_THREADS=1 python -m pytest --numprocesses "${WORKERS:-2}" --dist worksteal "$@"
out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT
python recipes/grpo_regex.py --credit=seq --use_cpu --max_steps 20 --output_dir "$out/demo"
