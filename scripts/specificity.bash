#!/usr/bin/env bash
# Specificity by lmms-eval, on seven VQA benchmarks: bash scripts/specificity.bash --checkpoint_path ADAPTER [option ...]
# Options: python -m safeeraser.specificity --help. After a stop at any moment, the same command resumes.
#   HF_TOKEN=...            the hub's token, where you are not logged in; six of the seven data sets require one
#   OPENAI_API_KEY=...      for the judge of MM-Vet and MMBench
#   LMMS_PYTHON=PROGRAM     a Python that has lmms-eval, instead of .venv-lmms, which this script makes (about 7 GB)
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/gpu.bash

# A dry run installs nothing, and reports missing installations.
case " $* " in *" --dry_run "* | *" --help "* | *" -h "*)
  [ ! -x .venv/bin/python ] || export PATH="$PWD/.venv/bin:$PATH"
  python=$(command -v python || command -v python3) || { echo "error: no Python on PATH" >&2; exit 2; }
  exec "$python" -m safeeraser.specificity "$@" ;;
esac
source scripts/setup.bash ""  # the empty word matters: without any word, it would see the options of this script

# Report wrong options before anything large is downloaded.
python -c 'from safeeraser.specificity.options import parse_only; parse_only()' "$@" || exit $?

if [ -z "${LMMS_PYTHON:-}" ]; then
  requirements=safeeraser/specificity/requirements.txt
  wanted=$(cksum < "$requirements")
  if [ "$(cat .venv-lmms/installed 2>/dev/null)" != "$wanted" ]; then
    echo "Setting up .venv-lmms (once; about 7 GB)"
    [ -x .venv-lmms/bin/python ] || "$python" -m venv .venv-lmms
    .venv-lmms/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements"
    echo "$wanted" > .venv-lmms/installed
  fi
  export LMMS_PYTHON=$PWD/.venv-lmms/bin/python
fi
exec python -m safeeraser.specificity "$@"
