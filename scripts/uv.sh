#!/usr/bin/env bash
# Run uv: the one on PATH, or one of our own in .uv/, fetched from PyPI at the first use.
# What pip is told about certificates and indexes (by environment or configuration file) holds for uv too.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"

find_python() {
  local candidate
  for candidate in python3 /usr/bin/python3; do
    if "$candidate" -c 'import ensurepip, venv' > /dev/null 2>&1; then echo "$candidate"; return; fi
  done
  echo "uv.sh: no Python with venv; run scripts/setup.sh" >&2
  return 1
}

uv="$(command -v uv || true)"
# A version manager's shim may be on PATH without a uv behind it.
if [ -z "$uv" ] || ! "$uv" --version > /dev/null 2>&1; then
  uv="$root/.uv/bin/uv"
  if ! "$uv" --version > /dev/null 2>&1; then
    "$(find_python)" -m venv --clear "$root/.uv/venv"
    "$root/.uv/venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$root/scripts/uv.lock"
    mkdir -p "$root/.uv/bin"
    ln -sfn ../venv/bin/uv "$uv"
  fi
fi

pip_config() {
  local pip="$root/.uv/venv/bin/pip"
  [ -x "$pip" ] && "$pip" config get "global.$1" 2> /dev/null || true
}
certificates="${SSL_CERT_FILE:-${PIP_CERT:-$(pip_config cert)}}"
[ -z "$certificates" ] || export SSL_CERT_FILE="$certificates"
index="${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-$(pip_config index-url)}}"
[ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
export UV_NO_PROGRESS=1
exec "$uv" "$@"
