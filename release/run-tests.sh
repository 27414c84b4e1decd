#!/usr/bin/env bash
# All tests: unit and property tests beside the code, documentation tests, and the end-to-end suite against real peers.
set -euo pipefail
cd "$(dirname "$0")/.."

# Python clients (paramiko, ansible, httpsig) in an environment of their own, kept between runs.
venv=${XDG_CACHE_HOME:-$HOME/.cache}/gatehouse/venv
requirements=tests/requirements.txt
if ! cmp -s "$requirements" "$venv/requirements.txt"; then
  python3 -m venv --clear "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"
  cp "$requirements" "$venv/requirements.txt"
fi
export GATEHOUSE_TEST_PYTHON=$venv/bin/python

cargo build --locked -p gatehouse
cargo nextest run --locked --workspace --no-fail-fast
cargo test --locked --workspace --doc --quiet
