#!/usr/bin/env bash
# Makes the virtual environment: CPU torch first, so that nothing after it pulls a CUDA build.
# Its argument is the extra of pyproject.toml to install; dev by default.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3}"
VENV="${VENV:-.venv}"
TORCH=2.13.0
EXTRA="${1:-dev}"

"$PYTHON" - <<'PY' || { echo "resq needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 1; }
import sys
sys.exit(sys.version_info < (3, 11))
PY
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check "$@"; }

if ! "$VENV/bin/python" -c "import torch" 2>/dev/null; then
  echo "installing PyTorch for the CPU into $VENV, 200 MB"
  case "$(uname -s)" in
    # The "+cpu" build comes from a configured source if there is one, else from PyTorch's own index.
    Linux) pip install -q "torch==$TORCH+cpu" 2>/dev/null ||
           pip install -q "torch==$TORCH" --index-url https://download.pytorch.org/whl/cpu ;;
    *)     pip install -q "torch==$TORCH" ;;
  esac
fi
echo "installing resq[$EXTRA] and what it needs, and compiling the native backend; some minutes"
pip install -q -c constraints.txt -e ".[$EXTRA]"

# pip hides what the build said, so a missing compiler would pass unseen
"$VENV/bin/python" - <<'PY'
from resq_core.backends.extension import native_status

status = native_status()
print(f"native backend: {status.isa}" if status.isa else f"no native backend: {status.reason}")
PY
