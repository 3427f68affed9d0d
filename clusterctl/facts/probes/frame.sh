# One pass over a node, run as `sh -s -- MODEL_PATH [CIDR OWN_ADDRESS [PEER…]]` over SSH (`-`: not declared): reads
# only, needs nothing installed beyond POSIX sh and /proc. Each section is framed with its exit code, so that the reader
# can tell "absent" from "the probe failed".
# Parsed by clusterctl/facts/parse.py. The parts in this directory are joined in the order of gather.PARTS.
LC_ALL=C
export LC_ALL
PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
model_path=$1
[ $# -eq 0 ] || shift
# The files of a machine are read below this, so that tests can bring a machine of their own.
root=${CLUSTERCTL_ROOT:-}

section() {
    name=$1
    shift
    printf '@@begin %s\n' "$name"
    "$@" 2>&1
    printf '\n@@end %s %s\n' "$name" "$?"
}

# A command that may hang, ended after so many seconds (exit code 124) where there is `timeout`.
limited() {
    if command -v timeout >/dev/null; then
        timeout "$@"
    else
        shift
        "$@"
    fi
}

# The clock is read at the beginning and at the end (end.sh): what lies between is no part of the round trip.
section clock_begin date +%s.%N
