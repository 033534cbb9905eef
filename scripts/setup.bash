# Sourced by the scripts that a newcomer runs: makes .venv and puts it first on PATH. Needs Python 3.11 or newer, no more.
# $1: the extras of pyproject.toml to install ("test"), if any. Nothing is installed again until the requirements change.

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
  # Python compiles what is imported, a small part of what is installed.
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt -e ".${1:+[$1]}"
  echo "$wanted" > "$stamp"
fi
# Containers like to set this; each process would then compile the libraries anew, for longer than all else it begins with.
unset PYTHONDONTWRITEBYTECODE
export PATH="$PWD/.venv/bin:$PATH"
