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
    with_vpd=
    for device in "$root"/sys/class/infiniband/*; do
        [ -d "$device" ] || continue
        rdma_file "$device/node_type"
        rdma_file "$device/sys_image_guid"
        rdma_file "$device/parent" # of software RDMA: the network interface that it runs over
        # A virtual function, seen where its own adapter is.
        [ -e "$device/device/physfn" ] && printf '%s/vf\t1\n' "${device##*/}"
        for layer in "$device"/ports/*/link_layer; do
            { read -r value <"$layer"; } 2>/dev/null && [ "$value" = InfiniBand ] && [ -r "$device/device/vpd" ] &&
                with_vpd="$with_vpd $device/device/vpd"
        done
    done
    # Where the kernel has the devices: those of software are below /devices/virtual.
    ls -l "$root/sys/class/infiniband" 2>/dev/null | sed -n 's|.* \([^ /]*\) -> .*/devices/virtual/.*|\1/software\t1|p'
    # The ports that manage NVSwitches say so in their vital product data, which only root may read and which is slow.
    # shellcheck disable=SC2086
    [ -n "$with_vpd" ] && limited 5 grep -l SW_MNG $with_vpd 2>/dev/null |
        sed -n 's|.*/\([^/]*\)/device/vpd$|\1/nvswitch\t1|p'
    for port in "$root"/sys/class/infiniband/*/ports/*; do
        [ -d "$port" ] || continue
        for file in state phys_state link_layer rate lid sm_lid; do
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
