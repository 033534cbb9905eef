# Sourced by the scripts that a newcomer runs: makes .venv and puts it first on PATH. Needs only Python 3.11 or newer.
# $1: the extras of pyproject.toml to install ("test"), if any. Nothing is installed again unless requirements change.

python=""
for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
  if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "error: no Python of at least 3.11 that has venv and ensurepip (on Debian: apt install python3-venv)" >&2
  exit 2
fi

stamp=".venv/installed-${1:-base}"
wanted=$(cat requirements.txt pyproject.toml | cksum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  echo "Setting up .venv (once; the downloads are large)"
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  # --no-compile: Python compiles a module when it is imported, and most installed modules never are.
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt -e ".${1:+[$1]}"
  echo "$wanted" > "$stamp"
fi
# Containers often set this. Each process would then compile the libraries again, which takes most of its start-up time.
unset PYTHONDONTWRITEBYTECODE
export PATH="$PWD/.venv/bin:$PATH"
