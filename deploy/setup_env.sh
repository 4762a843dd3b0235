#!/usr/bin/env bash
# Makes .venv with everything the six services need, from the pinned lists in requirements/. Safe to repeat: does nothing
# when the lists have not changed.
#
#   OPRIME_PYTHON=/path/to/python3.11   which interpreter to use (3.11 or 3.12)
#   OPRIME_VENV=.venv                   where the environment goes
#   OPRIME_GPU=1                        on a machine with an NVIDIA driver: CUDA builds, from requirements/gpu.lock
#                                       (OPRIME_GPU=image: the same without looking for the driver, for building containers)
set -euo pipefail
cd "$(dirname "$0")/.."

# Where PyTorch documents its CPU builds. Asked only when no configured pip source offers the pinned one.
TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu

venv=${OPRIME_VENV:-.venv}
say() { printf '==> %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

choose_lock() {
  case "${OPRIME_GPU:-0}" in
    0) echo requirements/cpu.lock ;;
    image) echo requirements/gpu.lock ;;
    1)
      nvidia-smi >/dev/null 2>&1 || fail "OPRIME_GPU=1, but nvidia-smi does not run here: install the NVIDIA driver, or leave OPRIME_GPU unset for CPU builds"
      echo requirements/gpu.lock
      ;;
    *) fail "OPRIME_GPU=$OPRIME_GPU is not known: use 0 (CPU builds), 1 (CUDA builds) or image" ;;
  esac
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }
supported() { [ "$1" = 3.11 ] || [ "$1" = 3.12 ]; }

find_python() {
  local candidate version seen=""
  for candidate in ${OPRIME_PYTHON:-python3.11 python3.12 python3}; do
    command -v "$candidate" >/dev/null 2>&1 || continue
    version=$(version_of "$candidate")
    if supported "$version"; then
      "$candidate" -c 'import ensurepip, venv' 2>/dev/null \
        || fail "$candidate cannot make virtual environments: install the package python$version-venv (apt install python$version-venv), then repeat"
      command -v "$candidate"
      return
    fi
    seen="$seen $candidate is ${version:-not runnable};"
  done
  fail "Python 3.11 or 3.12 is needed;${seen:- no python3 was found;} install one (apt install python3.11 python3.11-venv) or name one: OPRIME_PYTHON=/path/to/python3.11"
}

make_venv() {
  local version
  version=$(version_of "$venv/bin/python")
  if supported "$version" && "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    return
  fi
  say "Making $venv with $("$1" --version)"
  "$1" -m venv --clear "$venv"
}

pip_install() { "$venv/bin/python" -m pip --disable-pip-version-check install -qq --progress-bar off --no-deps "$@"; }

# Torch comes first: DeepSpeed's build imports it.
install_torch() {
  local problem
  if problem=$(pip_install "$1" 2>&1); then
    return
  elif [[ $1 == *+cpu ]] && grep -q 'No matching distribution found' <<<"$problem"; then
    say "No configured pip source has $1; taking it from PyTorch's CPU index"
    pip_install --index-url "$TORCH_CPU_INDEX" "$1"
  else
    printf '%s\n' "$problem" >&2
    fail "could not install $1: see the lines above"
  fi
}

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] \
  || fail "the pinned packages are for Linux on x86-64, this is $(uname -s) on $(uname -m): use an x86-64 machine, or a virtual one; the containers are for linux/amd64 as well"

lock=$(choose_lock)
python=$(find_python)
stamp=$(cat "$lock" pyproject.toml deploy/setup_env.sh | sha256sum | cut -d ' ' -f 1)
if [ "$(cat "$venv/.oprime-setup" 2>/dev/null)" = "$stamp" ] && [ -n "$(version_of "$venv/bin/python")" ]; then
  exit 0
fi

started=$SECONDS
make_venv "$python"
rm -f "$venv/.oprime-setup"
torch=$(grep -E '^torch==' "$lock")
deepspeed=$(grep -E '^deepspeed==' "$lock")

say "1/4 $torch"
install_torch "$torch"
say "2/4 $(grep -vcE '^(torch|deepspeed)==' "$lock") packages of $lock (some minutes when nothing is cached)"
pip_install -r <(grep -vE '^(torch|deepspeed)==' "$lock")
say "3/4 $deepspeed"
DS_BUILD_OPS=0 pip_install --no-build-isolation "$deepspeed"
say "4/4 oprime itself"
pip_install --no-build-isolation --editable .

echo "$stamp" > "$venv/.oprime-setup"
say "$venv is ready after $((SECONDS - started)) s"
