#!/bin/sh
# Turn an archive of `docker save`, read from standard input, into an engine's data root that holds it under a name of
# ours. Runs as the first process of its own mount, PID and network namespaces, like import.sh.
# Arguments: data root, image reference, log file.
set -eu
data=$1 image=$2 log=$3

mount -t tmpfs -o mode=755 tmpfs /run # also hides a containerd of this machine, which dockerd would use otherwise
dockerd --data-root "$data" --exec-root /run/docker --pidfile /run/docker.pid --host unix:///run/docker.sock \
  --bridge none --iptables=false --ip6tables=false --storage-driver overlay2 \
  --exec-opt native.cgroupdriver=cgroupfs >"$log" 2>&1 </dev/null &
engine=$!
tries=0
until docker --host unix:///run/docker.sock version >/dev/null 2>&1 </dev/null; do
  tries=$((tries + 1))
  if [ "$tries" -gt 300 ] || ! kill -0 "$engine" 2>/dev/null; then
    echo "the temporary Docker Engine did not start; its log ends with:" >&2
    tail -n 15 "$log" >&2
    exit 1
  fi
  sleep 0.2
done
docker --host unix:///run/docker.sock load
loaded=$(docker --host unix:///run/docker.sock image ls --quiet --no-trunc </dev/null | sort -u)
set -- $loaded
if [ $# != 1 ]; then
  echo "the archive holds $# images, and must hold one" >&2
  exit 1
fi
docker --host unix:///run/docker.sock tag "$1" "$image" </dev/null
kill -TERM "$engine"
wait "$engine" || true
test -s "$data/image/overlay2/repositories.json"
