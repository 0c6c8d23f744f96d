#!/usr/bin/env bash
# Build the source distribution, the wheel from that, check what they say of themselves, and install and run each with
# nothing but its dependencies in a clean place: a published package that lacks a file shows here.
set -euo pipefail
cd "$(dirname "$0")/.."
work="$(mktemp -d "${TMPDIR:-/tmp}/pyro-dist.XXXXXX")"
finish() {
  for pyro in "$work"/*/bin/pyro; do
    [ ! -x "$pyro" ] || PYRO_STATE_DIR="$work/state" "$pyro" node stop > /dev/null 2>&1 || true
  done
  rm -rf "$work"
}
trap finish EXIT

scripts/uv.sh build --quiet --out-dir "$work/dist"
scripts/uv.sh tool run --quiet --from 'twine>=6,<7' twine check --strict "$work"/dist/*.whl "$work"/dist/*.tar.gz
version="$(sed -n 's/^VERSION = "\(.*\)"$/\1/p' src/pyro_mcp/version.py)"
export PYRO_STATE_DIR="$work/state"
try() {
  local kind="$1" file="$2" python="$work/$1/bin/python" pyro="$work/$1/bin/pyro"
  scripts/uv.sh venv --quiet --python .venv/bin/python "$work/$kind"
  scripts/uv.sh pip install --quiet --python "$python" --constraint requirements.lock "$file"
  (
    cd "$work"
    [ "$("$pyro" --version)" = "pyro $version" ]
    [ "$("$python" -c 'import importlib.metadata; print(importlib.metadata.version("pyro-mcp"))')" = "$version" ]
    "$pyro" run debian:12 -- true
    "$pyro" node stop > /dev/null
  )
  echo "$kind: built, checked, installed in a clean place, and ran a guest"
}
try wheel "$work"/dist/*.whl
try sdist "$work"/dist/*.tar.gz
