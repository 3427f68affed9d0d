#!/usr/bin/env bash
# A Docker Engine of Debian 13 (26.1, which knows CDI) in a folder, from the mirror that this machine's apt uses; nothing is
# installed. Its runc needs a newer libc than Debian 12's, so this machine's own is used. Argument: the folder.
set -euo pipefail
folder=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$folder" "$work"/lists/partial "$work"/cache/archives/partial
mirror=$(apt-get indextargets --format '$(SITE) $(ORIGIN) $(LABEL)' 'Created-By: Packages' |
  awk '$2 == "Debian" && $3 == "Debian" && !found { print $1; found = 1 }')
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$work/sources.list"
apt=(apt-get -q "-oDir::State::Lists=$work/lists" "-oDir::Cache=$work/cache" "-oDir::Etc::sourcelist=$work/sources.list"
  -oDir::Etc::sourceparts=/dev/null -oAPT::Sandbox::User=root)
"${apt[@]}" update >/dev/null
(cd "$work" && "${apt[@]}" download docker.io docker-cli containerd >/dev/null)
for package in "$work"/*.deb; do dpkg -x "$package" "$folder"; done
