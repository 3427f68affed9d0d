#!/bin/sh
# Give Podman the lab's image: the engine's layer, as one image in a storage of Podman's own. Runs as the first process
# of its own mount, PID and network namespaces, like import.sh, and with the programs of the nodes' own root.
# Arguments: that root, the layer's directory, the storage to fill, image reference.
set -eu
system=$1 layer=$2 storage=$3 image=$4

mount --bind "$system" "$system"
cd "$system"
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs -o mode=755 tmpfs run
mkdir run/layer run/storage run/tmp
mount --bind "$layer" run/layer
mount --bind "$storage" run/storage
mkdir run/storage/tmp
# With the same settings as import.sh: the same image, whichever engine has it.
tar -C run/layer --one-file-system -cf - . | TMPDIR=/run/storage/tmp chroot . podman --root /run/storage \
  --runroot /run/tmp/run --tmpdir /run/tmp/libpod --storage-driver overlay --cgroup-manager cgroupfs import --quiet \
  --change 'ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
  --change 'ENV LANG=C.UTF-8' \
  --change 'ENTRYPOINT ["vllm", "serve"]' \
  --message 'clusterctl lab' - "$image"
rm -rf run/storage/tmp
test -s run/storage/overlay-images/images.json
