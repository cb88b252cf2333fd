#!/usr/bin/env bash
# The native backend's tests under AddressSanitizer and UndefinedBehaviorSanitizer (Linux).
# The sanitized extension goes into a copy of the tree, so the installed one stays as it is.
# Arguments go to pytest, e.g. -k; RESQ_EXAMPLES says how many networks are drawn.
set -euo pipefail
cd "$(dirname "$0")/.."
VENV="${VENV:-.venv}"
PYTHON="$PWD/$VENV/bin/python"
CXX="${CXX:-g++}"
COPY="$PWD/build/sanitize/tree"

"$PYTHON" -m nanobind --cmake_dir >/dev/null 2>&1 ||
  "$PYTHON" -m pip --disable-pip-version-check install -q "nanobind>=3.1,<4" cmake ninja
PATH="$PWD/$VENV/bin:$PATH"

mkdir -p "$COPY"
for part in CMakeLists.txt pyproject.toml resq_core service tests; do
  rm -rf "${COPY:?}/$part"
  cp -Rp "$part" "$COPY/"
done
find "$COPY/resq_core/backends" -name '_native*.so' -delete
cmake -S "$COPY" -B build/sanitize/objects -G Ninja -DRESQ_SANITIZE=ON \
  -DCMAKE_CXX_COMPILER="$CXX" -DPython_EXECUTABLE="$PYTHON"
cmake --build build/sanitize/objects

cd "$COPY"
# Python frees little at its end, and torch's libraries leak on purpose
env LD_PRELOAD="$("$CXX" -print-file-name=libasan.so):$("$CXX" -print-file-name=libstdc++.so.6)" \
  ASAN_OPTIONS="detect_leaks=0:abort_on_error=1" UBSAN_OPTIONS="print_stacktrace=1" \
  PYTHONPATH="$COPY" RESQ_EXAMPLES="${RESQ_EXAMPLES:-10}" \
  "$PYTHON" -m pytest --timeout=1200 -p no:cacheprovider \
  tests/resq_core/backends/test_native.py "$@"
