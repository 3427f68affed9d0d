# One lock per cluster on a node, held while this runs, and the node's history of who did what. Sent by
# clusterctl/lock.py as `sh -s -- LOCKFILE CLUSTER SILENCE_S`, and then driven by it, a line a request, a line an answer:
#   beat N         beat N                           I am still there
#   try RECORD     locked | busy NOW RECORD | refused WHY
#   look           holder RECORD                    what the lock's file says, held or not; empty without one
#   wait           free, when another one may try   (the one answer that may take long; beats go on meanwhile)
#   unlock         unlocked
#   begin CUTOFF   begun                            from here on an end without `end` is put down, as CUTOFF says
#   record RECORD  recorded | unrecorded WHY
#   end            released, and this ends
# A RECORD is a JSON object without its opening brace: the time, which is this node's, is put in front of it.
#
# No beat for SILENCE_S, or the end of the channel, ends this and with it the lock: whoever held it is gone.
# POSIX sh and coreutils or busybox, flock (util-linux or busybox). Nothing that runs long may inherit fd 9, which is
# the lock: it would hold on to it.
LC_ALL=C
export LC_ALL
PATH="$PATH:/usr/local/bin:/usr/bin:/bin"
lock=$1 silence=$3
state=${XDG_STATE_HOME:-${HOME:-/nonexistent}/.local/state}/clusterctl
history=$state/$2.jsonl
lines_kept=1000
cut_off='' waiter=''
trap '' PIPE # the other end may be gone: that is no reason to leave the file behind

say() { printf '%s\n' "$*"; }
now() { date +%s; }

# Opens the lock file as fd 9. Its path is the same for every login, in a directory where all may write and none may
# remove what is another's. So it is made with O_EXCL (set -C), which follows nobody's link; opened for reading, which
# fs.protected_regular allows for another's file; and writable for all, because one whose holder was killed cannot be
# removed by another login, which then goes on with it.
open_lock() {
    if [ ! -e "$lock" ] && [ ! -L "$lock" ]; then
        why=$( (set -C && umask 0 && : >"$lock") 2>&1)
    fi
    if [ -L "$lock" ]; then
        why="$lock is a symbolic link, which clusterctl never makes"
    elif [ -e "$lock" ] && [ ! -f "$lock" ]; then
        why="$lock is no regular file"
    elif command exec 9<"$lock"; then
        return 0
    elif [ -f "$lock" ]; then
        why="$lock cannot be opened by $(id -un)"
    fi 2>/dev/null
    return 1
}

# Whether fd 9 is still what every other login finds at the path: a holder removes it when it is done.
is_current() { [ ! -L "$lock" ] && [ "$lock" -ef /proc/self/fd/9 ]; }

holder() { [ ! -f "$lock" ] || head -n 1 "$lock" 2>/dev/null | head -c 4000; }

try_lock() {
    stop_waiting
    turns=0 why="$lock changes all the time"
    while [ "$turns" -lt 50 ]; do
        turns=$((turns + 1))
        open_lock || continue
        if ! flock -n 9; then
            exec 9<&-
            say "busy $(now) $(holder)"
            return
        fi
        is_current || continue
        # A hard link to a file of somebody's that this login may write, which this would then overwrite.
        [ "$(stat -c %h "$lock")" = 1 ] || { why="$lock has other names"; break; }
        printf '{"t": %s, %s\n' "$(now)" "$1" 2>/dev/null >/proc/self/fd/9 && { say locked; return; }
        why="$lock cannot be written by $(id -un)"
        break
    done
    command exec 9<&-
    say "refused $why"
}

# Blocks in flock beside the reading of requests. Whoever gets the lock so has it only on the file that was there: the
# holder removes that, so the next step is to try again.
wait_for_lock() {
    if ! open_lock; then
        say free # `try` says what is wrong
        return
    fi
    (
        trap 'kill "$flock"; exit' TERM
        flock 9 &
        flock=$!
        wait "$flock" && say free
    ) &
    waiter=$!
}

stop_waiting() {
    [ -n "$waiter" ] || return 0
    kill "$waiter" 2>/dev/null
    wait "$waiter"
    waiter=''
}

unlock() {
    stop_waiting
    if is_current && flock -n 9; then # also what waiting for it got; not what is still another's
        rm -f "$lock" || printf '' >/proc/self/fd/9 # another login's: it stays, and says nothing
    fi 2>/dev/null
    exec 9<&-
}

append() {
    umask 077
    mkdir -p "$state" || return
    # A machine that lost its power in the middle of a line has spoilt that line, not this one.
    if [ -s "$history" ] && [ -n "$(tail -c 1 "$history")" ]; then echo >>"$history" || return; fi
    printf '{"t": %s, %s\n' "$(now)" "$1" >>"$history" || return
    [ "$(wc -l <"$history")" -le "$lines_kept" ] ||
        { tail -n "$lines_kept" "$history" >"$history.new" && mv -f "$history.new" "$history"; }
}

# Beside everything else, and without the lock: a home directory that hangs (NFS) must not hold up its release.
record() {
    (if why=$(append "$1" 2>&1); then say recorded; else say "unrecorded $(printf %s "$why" | head -n 1)"; fi) 9<&- &
}

gone() {
    [ -z "$cut_off" ] || record "\"reason\": \"$1\", $cut_off" >/dev/null 2>&1
    unlock
    exit 3
}

for tool in flock timeout stat; do
    command -v "$tool" >/dev/null || { say "missing $tool"; exit 4; }
done

# A function, called in the last line: a shell reads its script in blocks, and would take for script what it is sent
# after `ready` in the same block.
serve() {
    say ready
    while :; do
        # A shell of its own, because POSIX read has no time-out; and read, because it takes no byte beyond its line.
        # It keeps nothing of the channel open but its input: when this shell is killed, its end is seen at once.
        request=$(exec 9<&- 2>/dev/null; exec timeout "$silence" sh -c 'IFS= read -r line && printf %s "$line"')
        case $? in
        0) ;;
        1) gone eof ;;
        *) gone silence ;;
        esac
        argument=${request#* }
        case $request in
        "beat "*) say "$request" ;;
        "try "*) try_lock "$argument" ;;
        look) say "holder $(holder)" ;;
        wait) wait_for_lock ;;
        unlock) unlock; say unlocked ;;
        "begin "*) cut_off=$argument; say begun ;;
        "record "*) record "$argument" ;;
        end) unlock; say released; exit 0 ;;
        esac
    done
}
serve
