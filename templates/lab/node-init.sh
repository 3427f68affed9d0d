#!/bin/sh
# The first process of a lab node, in its own network, mount, UTS, IPC and PID namespaces.
# Arguments: the node's directory, its name, its cgroup ("" = a node without an engine).
#
# The node's root file system is a folder of its own, so everything that a machine keeps on disk is a plain file in
# <node directory>/root on the host. Programs come from the host's /usr, read-only; or, where the node has a system of its
# own (<node directory>/system), from that one's.
set -eu
node=$1 name=$2 cgroup=$3
root=$node/root
system=
[ -d "$node/system" ] && system=$node/system

echo "$name" >/proc/sys/kernel/hostname
mount --bind "$root" "$root"
cd "$root"

for dir in usr bin sbin lib lib32 lib64 libx32; do
  if [ -L "$system/$dir" ]; then # merged /usr: /bin is a link
    ln -sfn "$(readlink "$system/$dir")" "$dir"
  elif [ -d "$system/$dir" ]; then
    mkdir -p "$dir"
    mount --bind "$system/$dir" "$dir"
    mount -o remount,bind,ro "$dir"
  fi
done
# What these programs need of /etc: where their libraries and alternatives are.
for file in alternatives ld.so.cache ld.so.conf ld.so.conf.d localtime; do
  [ -e "$system/etc/$file" ] || continue
  if [ -d "$system/etc/$file" ]; then mkdir -p "etc/$file"; else : >>"etc/$file"; fi
  mount --bind "$system/etc/$file" "etc/$file"
  mount -o remount,bind,ro "etc/$file"
done

if [ -f "$node/gpu-devices" ]; then
  # Some of the machine's GPUs: a /dev of the node's own, with these and with what every machine has.
  mount -t tmpfs -o mode=755,nosuid tmpfs dev
  for device in null zero full random urandom tty kmsg fuse $(cat "$node/gpu-devices"); do
    [ -e "/dev/$device" ] || continue
    # Where devices may not be made (a container without CAP_MKNOD), the machine's own are mounted.
    cp -a "/dev/$device" "dev/$device" 2>/dev/null || { : >"dev/$device" && mount --bind "/dev/$device" "dev/$device"; }
  done
  mkdir dev/pts dev/shm dev/mqueue
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
  ln -s pts/ptmx dev/ptmx
  ln -s /proc/self/fd dev/fd
  ln -s fd/0 dev/stdin
  ln -s fd/1 dev/stdout
  ln -s fd/2 dev/stderr
else
  mount --rbind /dev dev
fi
if [ -f "$node/binds" ]; then
  # What /usr has not from a plain bind mount: the parts of a driver that are mounted there. And models.
  while IFS="$(printf '\t')" read -r source target mode; do
    mount --bind "$source" ".$target"
    [ "$mode" = rw ] || mount -o remount,bind,ro ".$target"
  done <"$node/binds"
fi
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs dev/shm
mount -t proc proc proc
# A fresh sysfs shows the node's own network devices; the engine needs the host's cgroups in it.
mount -t sysfs sysfs sys
if [ -n "$system" ] && [ -n "$cgroup" ]; then
  # Podman puts its containers below the root of each hierarchy, wherever it is told to: this node's own group is that.
  if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    mkdir -p "/sys/fs/cgroup$cgroup"
    mount --bind "/sys/fs/cgroup$cgroup" sys/fs/cgroup
  else
    mount -t tmpfs -o mode=755,nosuid,nodev,noexec tmpfs sys/fs/cgroup
    for hierarchy in /sys/fs/cgroup/*; do
      [ -d "$hierarchy" ] && [ ! -L "$hierarchy" ] || continue
      mkdir -p "$hierarchy$cgroup" "sys$(echo "$hierarchy" | cut -c5-)"
      mount --bind "$hierarchy$cgroup" "sys$(echo "$hierarchy" | cut -c5-)"
    done
    # A new group of this hierarchy has no processors and no memory until it is given some, from the top down.
    group=/sys/fs/cgroup/cpuset
    for part in $(echo "$cgroup" | tr / ' '); do
      for file in cpuset.cpus cpuset.mems; do
        [ ! -f "$group/$file" ] || cat "$group/$file" >"$group/$part/$file"
      done
      group=$group/$part
    done
  fi
else
  mount --rbind /sys/fs/cgroup sys/fs/cgroup
fi
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs run
mkdir -p run/sshd run/lock
rm -rf tmp && mkdir -m 1777 tmp # a reboot empties /tmp

mkdir -p .host
pivot_root . .host
cd /
umount -l /.host
rmdir /.host

if [ -n "$cgroup" ] && [ -n "$system" ]; then
  # As podman.service and podman-restart.service do, which Debian's package has. The service only serves the API: it may
  # die, and containers go on.
  (
    mkdir -p /run/podman
    export PODMAN_IGNORE_CGROUPSV1_WARNING=1
    podman start --all --filter restart-policy=always >>/var/log/podman.log 2>&1 || true
    while :; do
      podman system service --time=0 unix:///run/podman/podman.sock >>/var/log/podman.log 2>&1 || true
      sleep 1
    done
  ) &
elif [ -n "$cgroup" ]; then
  # As a service manager would: the engine comes back when it dies. No NAT, no bridge: containers use the host network.
  (
    while :; do
      dockerd --host unix:///run/docker.sock --data-root /var/lib/docker --exec-root /run/docker \
        --pidfile /run/docker.pid --bridge none --iptables=false --ip6tables=false --storage-driver overlay2 \
        --cgroup-parent "$cgroup" --exec-opt native.cgroupdriver=cgroupfs >>/var/log/dockerd.log 2>&1 || true
      sleep 1
    done
  ) &
fi
exec /usr/sbin/sshd -D -E /var/log/sshd.log -f /etc/ssh/sshd_config
