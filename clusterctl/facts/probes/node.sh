# The machine itself: name, kernel, memory, addresses, listeners, engine.

engine_socket() {
    command -v docker || return 127
    [ -S /var/run/docker.sock ] || return 44
    [ -w /var/run/docker.sock ] || return 13
}

section hostname cat /proc/sys/kernel/hostname
section kernel cat /proc/sys/kernel/osrelease
section memory cat /proc/meminfo
section addresses ip -o -4 addr show
section tcp cat /proc/net/tcp
section tcp6 cat /proc/net/tcp6
section sockets ss -Hltnp
section engine_socket engine_socket
