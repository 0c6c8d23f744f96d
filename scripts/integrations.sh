#!/usr/bin/env bash
# Test the integrations with the real packages of others, from PyPI, in a place of their own: .venv-integrations.
# Harbor wants Python 3.12; with an older one its integration is left out, and that is said. PYTHON names another.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf 'integrations: %s\n' "$*" >&2; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.13 python3.12 python3}; do
    if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' > /dev/null 2>&1; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  say "no Python from 3.11 on"
  return 1
}

python=.venv-integrations/bin/python
[ -x "$python" ] && [ -z "${PYTHON:-}" ] || scripts/uv.sh venv --quiet --clear --python "$(find_python)" .venv-integrations
members=(integrations/pyro-openai-agents)
if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))'; then
  members+=(integrations/pyro-harbor)
else
  say "Python 3.12 is wanted for pyro-harbor, which is left out; name one with PYTHON=..."
fi
editable=(--editable .)
for member in "${members[@]}"; do editable+=(--editable "$member"); done
scripts/uv.sh pip install --quiet --python "$python" "${editable[@]}" --group integrations
# What other packages warn of is theirs.
"$python" -m pytest -W default integrations/examples "${members[@]}" "$@"
