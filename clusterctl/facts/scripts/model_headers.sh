# Headers of safetensors and GGUF files, as `sh -s -- PATH FILE…`: for each a line `LENGTH NAME`, then LENGTH bytes. A GGUF
# file does not say how long its header is: up to 32 MiB of the first part, 4 MiB of the others (which have no tokenizer).
# PATH is the model's directory, or the file itself. Compressed where the node can. Read by clusterctl/facts/model_headers.py.
LC_ALL=C
export LC_ALL
PATH="$PATH:/usr/local/bin:/usr/bin:/bin"
if [ -f "$1" ]; then
    cd "${1%/*}/" || exit
else
    cd "$1" || exit
fi
shift

headers() {
    for shard in "$@"; do
        limit=33554432
        case $shard in
        *-00001-of-*.gguf) ;;
        *-of-*.gguf) limit=4194304 ;;
        *.gguf) ;;
        *) limit= ;;
        esac
        if [ -n "$limit" ]; then
            size=$(($(stat -L -c %s "$shard"))) || continue
            [ "$size" -lt "$limit" ] && limit=$size
            printf '%s %s\n' "$limit" "$shard"
            head -c "$limit" "$shard"
            continue
        fi
        # shellcheck disable=SC2046
        set -- $(od -A n -v -t u1 -N 8 "$shard")
        length=$(($1 + $2 * 256 + $3 * 65536 + $4 * 16777216))
        printf '%s %s\n' "$length" "$shard"
        head -c "$((8 + length))" "$shard" | tail -c +9
    done
}

if command -v gzip >/dev/null; then
    headers "$@" | gzip -c -1
else
    headers "$@"
fi
