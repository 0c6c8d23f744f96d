#!/usr/bin/env bash
# Build the wheel, install it with nothing but its dependencies in a clean place, and run that: a published package
# that lacks a file shows here.
set -euo pipefail
cd "$(dirname "$0")/.."
work="$(mktemp -d "${TMPDIR:-/tmp}/pyro-wheel.XXXXXX")"
pyro="$work/venv/bin/pyro"
finish() {
  [ ! -x "$pyro" ] || PYRO_STATE_DIR="$work/state" "$pyro" node stop > /dev/null 2>&1 || true
  rm -rf "$work"
}
trap finish EXIT

scripts/uv.sh build --wheel --quiet --out-dir "$work/dist"
scripts/uv.sh venv --quiet --python .venv/bin/python "$work/venv"
scripts/uv.sh pip install --quiet --python "$work/venv/bin/python" --constraint requirements.lock "$work"/dist/*.whl
cd "$work"
export PYRO_STATE_DIR="$work/state"
"$pyro" --version
"$pyro" run debian:12 -- true
echo "wheel: built, installed in a clean place, and ran a guest"
