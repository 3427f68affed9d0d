# Directories that hold a model, in the places where people keep them: for each a line KIND, BYTES, PATH (tabs between).
# A model is weights, and beside them config.json (Hugging Face) or params.json (Mistral), or GGUF files alone.
# Read by clusterctl/facts/survey.py. Bounded: a dead mount or a huge tree ends the search, not the run.
LC_ALL=C
export LC_ALL
PATH="$PATH:/usr/local/bin:/usr/bin:/bin"
seconds=$1

bounded() {
    if command -v timeout >/dev/null; then timeout "$seconds" "$@"; else "$@"; fi
}

# Weights' directories, at most two levels below a place.
weights_below() {
    [ -d "$1" ] || return 0
    bounded find -L "$1" -maxdepth "$2" -type f \
        \( -name '*.safetensors' -o -name '*.gguf' -o -name 'pytorch_model*.bin' -o -name 'consolidated*.pth' \) \
        2>/dev/null | sed 's,/[^/]*$,,' | sort -u | head -n 200
}

describe() {
    kind=
    if [ -e "$1/config.json" ]; then
        kind=config
    elif [ -e "$1/params.json" ]; then
        kind=params
    elif [ -n "$(find -L "$1" -maxdepth 1 -name '*.gguf' | head -n 1)" ]; then
        kind=gguf
    fi
    [ -n "$kind" ] || return 0
    bytes=$(find -L "$1" -maxdepth 1 -type f -exec stat -L -c %s {} + 2>/dev/null | awk '{ sum += $1 } END { printf "%.0f", sum }')
    printf '%s\t%s\t%s\n' "$kind" "${bytes:-0}" "$1"
}

for place in /models /data/models /srv/models /opt/models /mnt/*/models "$HOME/models"; do
    weights_below "$place" 3
done | sort -u | while IFS= read -r directory; do describe "$directory"; done

weights_below "${HF_HOME:-$HOME/.cache/huggingface}/hub" 4 | grep '/snapshots/[^/]*$' |
    while IFS= read -r directory; do describe "$directory"; done
exit 0
