#!/usr/bin/env bash
# Train a tiny model to keep a format and to add, from nothing: bash scripts/demo.sh [options]
extras="" # what only tests need is not installed for it
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
echo "accelerate launch recipes/grpo_regex.py --credit=seq $*"
# through `grpo-credit run`, so that Ctrl-C ends in one line; cpu.yaml answers what accelerate asks
exec grpo-credit run accelerate launch --config_file recipes/accelerate/cpu.yaml \
    recipes/grpo_regex.py --credit=seq "$@"
