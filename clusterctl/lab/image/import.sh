#!/bin/sh
# Turn a root file system into an engine's data root that holds it as one image. Runs as the first process of its own
# mount, PID and network namespaces: whatever ends it ends the engine too, and nothing is left on the machine.
# Arguments: root file system, data root, image reference, log file.
set -eu
root=$1 data=$2 image=$3 log=$4

mount -t tmpfs -o mode=755 tmpfs /run # also hides a containerd of this machine, which dockerd would use otherwise
dockerd --data-root "$data" --exec-root /run/docker --pidfile /run/docker.pid --host unix:///run/docker.sock \
  --bridge none --iptables=false --ip6tables=false --storage-driver overlay2 \
  --exec-opt native.cgroupdriver=cgroupfs >"$log" 2>&1 &
engine=$!
tries=0
until docker --host unix:///run/docker.sock version >/dev/null 2>&1; do
  tries=$((tries + 1))
  if [ "$tries" -gt 300 ] || ! kill -0 "$engine" 2>/dev/null; then
    echo "the temporary Docker Engine did not start; its log ends with:" >&2
    tail -n 15 "$log" >&2
    exit 1
  fi
  sleep 0.2
done
# The entry point is the official image's, so that a probe that forgets to override it fails here too.
tar -C "$root" --one-file-system -cf - . | docker --host unix:///run/docker.sock import \
  --change 'ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
  --change 'ENV LANG=C.UTF-8' \
  --change 'ENTRYPOINT ["vllm", "serve"]' \
  --message 'clusterctl lab' - "$image"
kill -TERM "$engine"
wait "$engine" || true
test -s "$data/image/overlay2/repositories.json"
