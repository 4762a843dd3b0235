#!/bin/sh
# Installs packages into an image's environment with a pip that is not part of the image; pip's arguments follow.
# What no service reads is left out: tests, parts of Arrow for its own RPC and its own S3 client, and byte code of models nobody chose.
set -eu
PIP_CACHE_DIR=/var/cache/pip /opt/tools/bin/python -m pip --python /opt/venv/bin/python --disable-pip-version-check --no-input \
  install --quiet --progress-bar off --no-deps --no-compile "$@"
cd /opt/venv/lib/python3*/site-packages
find . -type d -name tests -prune -exec rm -rf {} +
rm -rf pyarrow/include pyarrow/lib*flight* pyarrow/_flight* pyarrow/libarrow_s3* pyarrow/_s3fs* pyarrow/_pyarrow_cpp_tests* \
  pyarrow/libarrow_python*.so pyarrow/libarrow_python*.so.*.*.*
# A package may carry templates that are no Python.
python -m compileall -qq -x '/transformers/models/|/pygments/(lexers|styles)/|/sympy/physics/' . || true
