#!/usr/bin/env bash
# Make this checkout ready: system packages (apt), uv (PyPI), .venv from requirements.lock. Installs only what is
# missing; does nothing, fast, when all is there. Two at once share the work. PYTHON says which Python to use, by name
# or path; without it, .venv keeps the one that it has.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$1"; exit 1; }

# program:package, each program as the proof of its package
needs=(qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap mkfs.erofs:erofs-utils mkfs.ext4:e2fsprogs
  cpio:cpio lz4:lz4 unshare:util-linux newuidmap:uidmap git:git gpgv:gpgv)
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

python_ok() {
  "$1" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' > /dev/null 2>&1
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 /usr/bin/python3 python3.13 python3.12 python3.11}; do
    if python_ok "$candidate"; then command -v "$candidate"; return; fi
  done
  return 1
}

python_version() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null
}

# A .venv with the Python that was asked for, or with any.
venv_ok() {
  local has
  has="$(python_version .venv/bin/python)" || return
  [ -z "${PYTHON:-}" ] || [ "$has" = "$(python_version "$(find_python)")" ]
}

missing_packages() {
  local need
  for need in "${needs[@]}"; do
    command -v "${need%%:*}" > /dev/null || echo "${need##*:}"
  done
  [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || echo debian-archive-keyring
  [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
  [ -x .venv/bin/python ] || find_python > /dev/null || printf '%s\n' python3 python3-venv
}

install_packages() {
  command -v apt-get > /dev/null || die "missing: $*. This system has no apt; install them with its own package manager"
  local root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo > /dev/null || die "missing: $*. As root, run: apt-get install $*"
    root=(sudo)
  fi
  local apt=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
  say "installing $*"
  "${apt[@]}" update > /dev/null || die "cannot update the package lists: see the lines above"
  "${apt[@]}" install -y --no-install-recommends "$@" > /dev/null || die "cannot install $*: see the lines above"
}

make_venv() {
  local stamp
  stamp="$(pwd) $(cat requirements.lock pyproject.toml | sha256sum)"
  [ "$(cat .venv/.pyro-setup 2> /dev/null)" = "$stamp" ] && venv_ok && return
  say "installing the Python packages"
  venv_ok || scripts/uv.sh venv --quiet --clear --python "$(find_python)" .venv
  scripts/uv.sh pip install --quiet --python .venv/bin/python --require-hashes -r requirements.lock
  scripts/uv.sh pip install --quiet --python .venv/bin/python --no-deps --editable .
  printf '%s\n' "$stamp" > .venv/.pyro-setup
}

[ -z "${PYTHON:-}" ] || find_python > /dev/null || die "PYTHON=$PYTHON is no Python 3.11 or later that can make a venv"
mkdir -p .uv
exec 9> .uv/setup.lock
flock -n 9 || { say "waiting for another setup of this checkout"; flock 9; }
mapfile -t missing < <(missing_packages)
[ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
make_venv
