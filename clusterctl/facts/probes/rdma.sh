# RDMA devices: what the container is given (/dev/infiniband), and what the kernel knows of them (sysfs).
# Formats: Linux, Documentation/ABI/stable/sysfs-class-infiniband and testing/sysfs-class-infiniband-gid-attrs.

infiniband() {
    [ -d "$root/dev/infiniband" ] || return 44
    ls "$root/dev/infiniband"
}

# `path below /sys/class/infiniband`, a tab, the file's first line. No process is started for a file: a host channel
# adapter has hundreds of GIDs. Files that the kernel refuses to show (EINVAL for an empty GID) are left out.
rdma_file() {
    { read -r value <"$1"; } 2>/dev/null && printf '%s\t%s\n' "${1#"$root/sys/class/infiniband/"}" "$value"
}

rdma() {
    [ -d "$root/sys/class/infiniband" ] || return 44
    for port in "$root"/sys/class/infiniband/*/ports/*; do
        [ -d "$port" ] || continue
        for file in state phys_state link_layer rate; do
            rdma_file "$port/$file"
        done
        for gid in "$port"/gids/*; do
            { read -r value <"$gid"; } 2>/dev/null || continue
            # All zero: an unused entry. fe80:…:0 is what an Ethernet port without an address may show.
            [ "$value" = 0000:0000:0000:0000:0000:0000:0000:0000 ] && continue
            printf '%s\t%s\n' "${gid#"$root/sys/class/infiniband/"}" "$value"
            rdma_file "$port/gid_attrs/types/${gid##*/}"
            rdma_file "$port/gid_attrs/ndevs/${gid##*/}"
        done
    done
    for net in "$root"/sys/class/infiniband/*/device/net/*; do
        [ -d "$net" ] || continue
        rdma_file "$net/dev_port"
    done
    return 0
}

section infiniband infiniband
section rdma rdma
