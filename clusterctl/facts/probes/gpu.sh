# Accelerators, their driver, and what gives them to containers.

# Columns as facts/gpu.py reads them; the last two came with the drivers that know NVLink fabrics: an older nvidia-smi
# says 2 ("not a valid field to query").
gpus() {
    command -v nvidia-smi >/dev/null || return 44
    columns=index,name,uuid,memory.total,memory.used,pci.bus_id,driver_version
    columns=$columns,compute_mode,mig.mode.current,ecc.errors.uncorrected.volatile.total
    rows=$(smi "$columns,fabric.state,fabric.status")
    code=$?
    if [ "$code" = 2 ]; then
        rows=$(smi "$columns")
        code=$?
    fi
    printf '%s\n' "$rows"
    return "$code"
}

smi() {
    limited 20 nvidia-smi "--query-gpu=$1" --format=csv,noheader,nounits 2>&1
}

gpu_processes() {
    command -v nvidia-smi >/dev/null || return 44
    limited 20 nvidia-smi --query-compute-apps=gpu_uuid,pid,process_name,used_memory --format=csv,noheader,nounits
}

# Which control group each of them is in: a container's has its ID.
gpu_process_groups() {
    command -v nvidia-smi >/dev/null || return 44
    pids=$(limited 20 nvidia-smi --query-compute-apps=pid --format=csv,noheader) || return
    for pid in $pids; do
        case $pid in *[!0-9]*) continue ;; esac
        { printf '%s\t%s\n' "$pid" "$(tr '\n' ' ' <"$root/proc/$pid/cgroup")"; } 2>/dev/null
    done
    return 0
}

gpu_topology() {
    command -v nvidia-smi >/dev/null || return 44
    limited 20 nvidia-smi topo -m
}

# The loaded kernel module; "Open Kernel Module" can hand GPU memory to an HCA without nvidia_peermem (dma-buf).
nvidia_module() {
    [ -r "$root/proc/driver/nvidia/version" ] || return 44
    cat "$root/proc/driver/nvidia/version"
}

# Yes (1) or no (0) to each question, by what is there.
nvidia_state() {
    [ -d "$root/proc/driver/nvidia" ] || return 44
    is_there peermem "$root/sys/module/nvidia_peermem" "$root/sys/module/nv_peer_mem"
    is_there char_links "$root/dev/char/195:255"
    if command -v nvidia-container-runtime-hook >/dev/null; then printf 'hook\t1\n'; else printf 'hook\t0\n'; fi
    is_there cdi "$root"/etc/cdi/*nvidia* "$root"/var/run/cdi/*nvidia*
    is_there nvswitch "$root"/proc/driver/nvidia-nvswitch/devices/*
    if is_there_quietly "$root"/proc/driver/nvidia-nvswitch/devices/*; then fabric_manager; fi
    for gpu in "$root"/proc/driver/nvidia/gpus/*; do
        first_line "iommu/${gpu##*/}" "$root/sys/bus/pci/devices/${gpu##*/}/iommu_group/type"
    done
    return 0
}

is_there() {
    question=$1
    shift
    if is_there_quietly "$@"; then printf '%s\t1\n' "$question"; else printf '%s\t0\n' "$question"; fi
}

is_there_quietly() {
    for candidate in "$@"; do
        [ -e "$candidate" ] || [ -L "$candidate" ] && return 0
    done
    return 1
}

# By its process, not by systemd's word: it may be started by something else.
fabric_manager() {
    for comm in "$root"/proc/[0-9]*/comm; do
        { read -r value <"$comm"; } 2>/dev/null || continue
        # The kernel keeps 15 characters of a name.
        [ "$value" = nv-fabricmanage ] && printf 'fabric_manager\t1\n' && return 0
    done
    printf 'fabric_manager\t0\n'
}

# PCI bridges that send traffic between two devices through the root complex (F15). Only root can see it, and only on
# bare metal does it matter; a hypervisor needs it.
acs() {
    [ -d "$root/proc/driver/nvidia/gpus" ] && command -v lspci >/dev/null && [ "$(id -u)" = 0 ] || return 44
    case $(virtual) in *1) return 44 ;; esac
    bridges=$(limited 5 lspci -vvv -d ::0604) || return
    printf '%s\n' "$bridges" | grep -c 'ACSCtl:.*SrcValid+'
    return 0
}

# What engines can give to containers, whatever kind of device: the files themselves, each below its name.
cdi() {
    for file in "$root"/etc/cdi/*.json "$root"/etc/cdi/*.yaml "$root"/var/run/cdi/*.json "$root"/var/run/cdi/*.yaml; do
        [ -f "$file" ] || continue
        printf '\n@@cdi %s\n' "${file#"$root"}"
        head -c 1048576 "$file"
    done
    return 0
}

# AMD.
rocm() {
    command -v rocm-smi >/dev/null || return 44
    limited 20 rocm-smi --showid --json
}

# In the order in which ROCm counts them: the driver's nodes by number, those of CPUs with 0.
amd_render() {
    [ -d "$root/sys/class/kfd/kfd/topology/nodes" ] || return 44
    number=0
    while [ -d "$root/sys/class/kfd/kfd/topology/nodes/$number" ]; do
        while read -r property value; do
            [ "$property" = drm_render_minor ] && printf '%s\n' "$value"
        done <"$root/sys/class/kfd/kfd/topology/nodes/$number/properties"
        number=$((number + 1))
    done
    return 0
}

section gpus gpus
section gpu_processes gpu_processes
section gpu_process_groups gpu_process_groups
section gpu_topology gpu_topology
section nvidia_module nvidia_module
section nvidia_state nvidia_state
section acs acs
section rocm rocm
section amd_render amd_render
section cdi cdi
