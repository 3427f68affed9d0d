#!/bin/sh
# A machine with two GPUs, as far as files go, and a newer engine: in a mount namespace of its own, nothing of it stays.
# The devices are /dev/null by other names; nvidia-smi answers as a captured one did. Then the given command runs.
# Arguments: a folder for what is written, a folder with a Docker Engine from 25 on (usr/bin, usr/sbin), the command.
set -eu
work=$1 engine=$2
shift 2

mkdir -p "$work/upper" "$work/work" "$work/dev"
cp -a "$engine/usr/." "$work/upper/"
mkdir -p "$work/upper/local/nvidia"
mount -t overlay overlay -o "lowerdir=/usr,upperdir=$work/upper,workdir=$work/work" /usr

# The driver's directory is mounted by itself, as in a container that was given GPUs.
mount -t tmpfs -o mode=755 tmpfs /usr/local/nvidia
mkdir /usr/local/nvidia/bin /usr/local/nvidia/lib64
echo "not a library" >/usr/local/nvidia/lib64/libcuda.so.580.95.05
ln -s libcuda.so.580.95.05 /usr/local/nvidia/lib64/libcuda.so.1
cat >/usr/local/nvidia/bin/nvidia-smi <<'S'
#!/bin/sh
case "$*" in
*--query-gpu=index,uuid,name,pci.bus_id*)
  echo "0, GPU-aaaaaaaa-0000-0000-0000-000000000000, NVIDIA H200, 00000000:19:00.0"
  echo "1, GPU-bbbbbbbb-0000-0000-0000-000000000000, NVIDIA H200, 00000000:3B:00.0"
  ;;
*--query-gpu=*)
  echo "0, NVIDIA H200, GPU-aaaaaaaa-0000-0000-0000-000000000000, 143771, 0, 00000000:19:00.0, 580.95.05, Default, Disabled, 0, Completed, Success"
  echo "1, NVIDIA H200, GPU-bbbbbbbb-0000-0000-0000-000000000000, 143771, 0, 00000000:3B:00.0, 580.95.05, Default, Disabled, 0, Completed, Success"
  ;;
esac
S
chmod +x /usr/local/nvidia/bin/nvidia-smi

mount --rbind /dev "$work/dev"
mount -t tmpfs -o mode=755 tmpfs /dev
for device in null zero full random urandom tty kmsg fuse; do
  [ ! -e "$work/dev/$device" ] || cp -a "$work/dev/$device" "/dev/$device"
done
for device in nvidia0 nvidia1 nvidiactl nvidia-uvm; do mknod -m 666 "/dev/$device" c 1 3; done
mkdir /dev/pts /dev/shm
mount --rbind "$work/dev/pts" /dev/pts
mount --rbind "$work/dev/shm" /dev/shm
ln -s pts/ptmx /dev/ptmx
ln -s /proc/self/fd /dev/fd
exec "$@"
