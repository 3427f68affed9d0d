# One pass over a node, run as `sh -s -- MODEL_PATH` over SSH: reads only, needs nothing installed beyond POSIX sh
# and /proc. Each section is framed with its exit code, so that the reader can tell «absent» from «the probe failed».
# Parsed by clusterctl/facts/parse.py.
LC_ALL=C
export LC_ALL
PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
model_path=$1

section() {
    name=$1
    shift
    printf '@@begin %s\n' "$name"
    "$@" 2>&1
    printf '\n@@end %s %s\n' "$name" "$?"
}

# Absent is 44; a directory that is there and may not be entered is a failure of the probe.
enter_model() {
    cd "$model_path" && return 0
    [ -e "$model_path" ] || return 44
    return 1
}

model_files() {
    enter_model || return
    find -L . -maxdepth 1 -type f -exec stat -L -c '%s %n' {} +
}

model_file() {
    enter_model || return
    [ -e "$1" ] || return 44
    cat "$1"
}

infiniband() {
    [ -d /dev/infiniband ] || return 44
    ls /dev/infiniband
}

engine_socket() {
    command -v docker || return 127
    [ -S /var/run/docker.sock ] || return 44
    [ -w /var/run/docker.sock ] || return 13
}

gpus() {
    command -v nvidia-smi >/dev/null || return 44
    nvidia-smi --query-gpu=index,name,uuid,memory.total,memory.used --format=csv,noheader,nounits
}

gpu_processes() {
    command -v nvidia-smi >/dev/null || return 44
    nvidia-smi --query-compute-apps=gpu_uuid,pid,process_name,used_memory --format=csv,noheader,nounits
}

section hostname cat /proc/sys/kernel/hostname
section kernel cat /proc/sys/kernel/osrelease
section memory cat /proc/meminfo
section addresses ip -o -4 addr show
section tcp cat /proc/net/tcp
section tcp6 cat /proc/net/tcp6
section sockets ss -Hltnp
section gpus gpus
section gpu_processes gpu_processes
section infiniband infiniband
section engine_socket engine_socket
section model_files model_files
section model_config model_file config.json
section model_index model_file model.safetensors.index.json
