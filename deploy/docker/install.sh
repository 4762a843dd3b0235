#!/bin/sh
# Installs packages into an image's environment with a pip that is not part of the image; pip's arguments follow.
# What no service reads is left out: tests, parts of Arrow for its own RPC and its own S3 client, what AWS has besides S3 and logging in to it,
# what models of transformers are generated from, and byte code of models nobody chose and of mathematics nobody asks for.
set -eu
PIP_CACHE_DIR=/var/cache/pip /opt/tools/bin/python -m pip --python /opt/venv/bin/python --disable-pip-version-check --no-input \
  install --quiet --progress-bar off --no-deps --no-compile "$@"
cd /opt/venv/lib/python3*/site-packages
find . -type d -name tests -prune -exec rm -rf {} +
rm -rf pyarrow/include pyarrow/lib*flight* pyarrow/_flight* pyarrow/libarrow_s3* pyarrow/_s3fs* pyarrow/_pyarrow_cpp_tests* \
  pyarrow/libarrow_python*.so pyarrow/libarrow_python*.so.*.*.* numpy/_core/_simd.*.so numpy/_core/_*_tests.*.so
find . -path './botocore/data/*' -prune -type d ! -name s3 ! -name sts ! -name sso ! -name sso-oidc ! -name signin -exec rm -rf {} +
find . -path './transformers/models/*/modular_*.py' -delete
# A package may carry templates that are no Python.
python -m compileall -qq . \
  -x '/transformers/models/|/pygments/(lexers|styles)/|/sympy/(physics|stats|vector|diffgeom|crypto|categories|liealgebras|holonomic)/' || true
