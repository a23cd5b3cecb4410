#!/usr/bin/env bash
# Train a tiny model to keep a format, from nothing: bash scripts/demo.sh [options of the recipe]
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
echo "accelerate launch recipes/grpo_regex.py --credit=seq $*"
# through `grpo-credit run`, so that Ctrl-C ends in one line
exec grpo-credit run accelerate launch recipes/grpo_regex.py --credit=seq "$@"
