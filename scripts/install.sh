#!/usr/bin/env bash
# Makes the virtual environment $1 and installs the package with the versions of constraints.txt.
set -euo pipefail
venv=$1
[ -x "$venv/bin/python" ] || "${PYTHON:-python3.11}" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
version=$(sed -n 's/^torch==//p' constraints.txt)
if ! "$venv/bin/python" -c "import torch" 2>/dev/null; then
    if [ -n "${TORCH:-}" ]; then
        pip install -q "$TORCH"
    elif command -v nvidia-smi >/dev/null 2>&1; then
        pip install -q "torch==$version"
    else # without a GPU the CUDA packages would be several GB for nothing
        pip install -q "torch==$version+cpu" 2>/dev/null ||
            pip install -q --index-url https://download.pytorch.org/whl/cpu "torch==$version" 2>/dev/null ||
            pip install -q "torch==$version"
    fi
fi
pip install -q -c constraints.txt -e '.[dev,lm-eval,review]'
