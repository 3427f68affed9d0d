# The machine, further: operating system, clock, disks, limits, interfaces, routes, its own name, the engine's process.

# `name`, a tab, the first line of a file; nothing where the file is absent. No process is started for it.
first_line() {
    { read -r value <"$2"; } 2>/dev/null && printf '%s\t%s\n' "$1" "$value"
}

# 1 when a hypervisor runs this kernel, 0 on bare metal; nothing where the processor does not say (not x86).
virtual() {
    [ -r "$root/proc/cpuinfo" ] || return 0
    while read -r key rest; do
        [ "$key" = flags ] || continue
        case " $rest " in *" hypervisor "*) printf 'virtual\t1\n' ;; *) printf 'virtual\t0\n' ;; esac
        return 0
    done <"$root/proc/cpuinfo"
    return 0
}

# Where SELinux enforces, the label of the model's directory. The kernel's file has no end of line: read says 1 then.
selinux() {
    enforces=
    { read -r enforces <"$root/sys/fs/selinux/enforce"; } 2>/dev/null
    [ "$enforces" = 1 ] && [ -e "$model_path" ] && printf 'selinux\t%s\n' "$(stat -L -c %C -- "$model_path")"
    return 0
}

machine() {
    virtual
    selinux
    first_line cmdline "$root/proc/cmdline"
    if [ -d "$root/run/systemd/system" ]; then printf 'systemd\t1\n'; else printf 'systemd\t0\n'; fi
}

# The engine's own process. Its limits are the most that it can give to a container without CAP_SYS_RESOURCE.
engine_process() {
    for file in "$root/var/run/docker.pid" "$root/run/snap.docker/docker.pid"; do
        [ -r "$file" ] || continue
        engine_pid=
        read -r engine_pid <"$file" # written without a newline: read says 1 then, and has read it
        [ -n "$engine_pid" ] && [ -d "$root/proc/$engine_pid" ] || continue
        printf 'pid\t%s\n' "$engine_pid"
        grep -e '^CapEff:' "$root/proc/$engine_pid/status" &&
            grep -e '^Max locked memory' -e '^Max open files' "$root/proc/$engine_pid/limits"
        return
    done
    return 44
}

# Where the engine keeps images and containers: its argument, else its configuration, else its default.
find_data_root() {
    data_root=
    configured="$root/etc/docker/daemon.json"
    [ -d "$root/var/snap/docker" ] && configured="$root/var/snap/docker/current/config/daemon.json"
    previous=
    if [ -n "${engine_pid:-}" ]; then
        IFS='
'
        for argument in $(tr '\000' '\n' <"$root/proc/$engine_pid/cmdline"); do
            case $previous in --data-root | -g | --graph) data_root=$argument ;; esac
            case $argument in --data-root=* | --graph=*) data_root=${argument#*=} ;; esac
            previous=$argument
        done
        unset IFS
    fi
    [ -z "$data_root" ] && [ -r "$configured" ] &&
        data_root=$(sed -n 's/.*"data-root"[[:space:]]*:[[:space:]]*"\([^"]*\)".*/\1/p' "$configured")
    [ -n "$data_root" ] || data_root=/var/lib/docker
    [ -d /var/snap/docker/common/var-lib-docker ] && [ "$data_root" = /var/lib/docker ] &&
        data_root=/var/snap/docker/common/var-lib-docker
    return 0
}

# path|free blocks for users|all blocks|block size|free inodes|all inodes|type. The model may be on a network that hangs:
# it comes last.
filesystems() {
    find_data_root
    set -- /tmp
    [ -d "$data_root" ] && set -- "$@" "$data_root"
    for storage in /var/lib/containers/storage "${HOME:-/root}/.local/share/containers/storage"; do
        [ -d "$storage" ] && set -- "$@" "$storage"
    done
    [ -e "$model_path" ] && set -- "$@" "$model_path"
    limited 5 stat -f -c '%n|%a|%b|%S|%d|%c|%T' "$@"
}

# What containers without a daemon above them depend on. Who starts Podman's after a boot: a unit of root's, and one of
# this login's. For an engine of the login's own: whether it goes on after the last logout, and its first free port.
services() {
    for wants in "$root"/etc/systemd/system/*.wants/podman-restart.service; do
        [ -L "$wants" ] && printf 'restarts\t1\n'
    done
    for wants in "${HOME:-/root}"/.config/systemd/user/*.wants/podman-restart.service \
        "$root"/etc/systemd/user/*.wants/podman-restart.service; do
        [ -L "$wants" ] && printf 'user_restarts\t1\n'
    done
    [ -e "$root/var/lib/systemd/linger/$(id -un)" ] && printf 'lingers\t1\n'
    first_line first_port "$root/proc/sys/net/ipv4/ip_unprivileged_port_start"
    return 0
}

interfaces() {
    [ -d "$root/sys/class/net" ] || return 44
    for net in "$root"/sys/class/net/*; do
        [ -d "$net" ] || continue # bonding_masters is a file
        nic=${net##*/}
        first_line "$nic/mtu" "$net/mtu"
        first_line "$nic/operstate" "$net/operstate"
        first_line "$nic/speed" "$net/speed" # EINVAL where there is no link
        # An IPoIB child (ib0.8001) names its parent here.
        { read -r value <"$net/parent"; } 2>/dev/null && printf '%s/lower/%s\t1\n' "$nic" "$value"
        for lower in "$net"/lower_*; do
            [ -e "$lower" ] && printf '%s/lower/%s\t1\n' "$nic" "${lower##*/lower_}"
        done
    done
    return 0
}

# What the node's own name stands for: asked as programs ask, with a time limit, since a name server may not answer.
# 2 is getent's "not found". musl's getent knows no ahostsv4 and says 1: then, as without getent, /etc/hosts counts.
hostname_addresses() {
    read -r own_name <"$root/proc/sys/kernel/hostname" || return
    if [ -z "$root" ] && command -v getent >/dev/null; then
        limited 3 getent ahostsv4 "$own_name"
        code=$?
        case $code in 0) return 0 ;; 2) return 44 ;; 1) ;; *) return "$code" ;; esac
    fi
    [ -r "$root/etc/hosts" ] || return 44
    while read -r address names; do
        for known in ${names%%#*}; do
            [ "$known" = "$own_name" ] && printf '%s HOSTS %s\n' "$address" "$known" && found_name=1
        done
    done <"$root/etc/hosts"
    [ -n "${found_name:-}" ] || return 44
}

section machine machine
section os_release cat "$root/etc/os-release"
section limits cat "$root/proc/self/limits"
section engine_process engine_process
section services services
section filesystems filesystems
section interfaces interfaces
section routes sed -n 1,200p "$root/proc/net/route"
section hostname_addresses hostname_addresses
