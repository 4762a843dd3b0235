#!/usr/bin/env bash
# First container of a compose run: refuses settings that contradict each other, makes the starting model, and puts the settings into the run's folder for `oprime report`.
set -euo pipefail

config=$1 model=$2 run=$3
oprime explain "$config"
mkdir -p "$run"
cp "$config" "$run/config.toml"
if [ ! -f "$model/config.json" ]; then
  oprime sft "$config"
fi
