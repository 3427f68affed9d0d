"""Options of ssh_config(5) (OpenSSH 9.2 to 10.2) that have no effect here: they are named, and not passed over."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

EFFECTS: Mapping[str, str] = {
    "addressfamily": "both address families are tried",
    "bindaddress": "the system chooses the address to connect from",
    "bindinterface": "the system chooses the interface to connect from",
    "ciphers": "the SSH library's own list is offered",
    "macs": "the SSH library's own list is offered",
    "kexalgorithms": "the SSH library's own list is offered",
    "hostkeyalgorithms": "the types of the keys in known_hosts are asked for",
    "pubkeyacceptedalgorithms": "the SSH library's own list is offered",
    "pubkeyacceptedkeytypes": "the SSH library's own list is offered",
    "casignaturealgorithms": "host certificates are not supported",
    "gssapiauthentication": "only keys are used to log in",
    "hostbasedauthentication": "only keys are used to log in",
    "pubkeyauthentication": "only keys are used to log in",
    "pkcs11provider": "keys of a PKCS#11 provider are used only through ssh-agent",
    "securitykeyprovider": "keys of a security key are used only through ssh-agent",
    "identityagent": "the agent is the one of SSH_AUTH_SOCK",
    "proxyusefdpass": "a proxy command's streams are used, not a descriptor that it passes",
    "knownhostscommand": "host keys are looked up in files only",
    "revokedhostkeys": "revoked keys are those of @revoked lines in known_hosts",
    "verifyhostkeydns": "host keys are looked up in files only",
    "nohostauthenticationforlocalhost": "host keys are always checked",
    "requiredrsasize": "the SSH library's own limit counts",
    "remotecommand": "clusterctl runs commands of its own",
    "tunnel": "no tunnel is opened",
    "forkafterauthentication": "nothing goes to the background",
}
"""Keyword → what happens instead. What concerns interactive logins, forwarding, multiplexing or logging is left out:
clusterctl does none of these."""


PARAMIKO_UNREAD = ("canonicalizehostname", "canonicaldomains", "include")
"""Keywords that paramiko 5.1 does not obey when it reads ssh_config itself."""
PARAMIKO_CRITERIA = frozenset({"all", "canonical", "final", "exec", "host", "originalhost", "user", "localuser"})
"""Criteria of Match that paramiko 5.1 knows (config.py)."""


def not_honoured(answer: Mapping[str, Sequence[str]], defaults: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """A sentence for each option in `ssh -G`'s answer that is set to something else than OpenSSH's default, and has no
    effect here."""
    return tuple(
        f"{name} {' '.join(answer[name])!r} has no effect: {effect}"
        for name, effect in EFFECTS.items()
        if name in answer and list(answer[name]) != list(defaults.get(name, ())) and not _off(name, answer[name])
    )


def _off(name: str, values: Sequence[str]) -> bool:
    """Whether it says that there is none of it, as elsewhere the default does; an agent of none is honoured."""
    return all(value.lower() in ("none", "no", "false") for value in values) and name != "pubkeyauthentication"


def read_by_paramiko(texts: Iterable[str]) -> str:
    """The files without the lines that it does not obey: some of them end its reading."""
    lines = (line for text in texts for line in text.splitlines())
    return "\n".join(line for line in lines if _keyword(line) not in PARAMIKO_UNREAD)


def _keyword(line: str) -> str:
    return re.split(r"[\s=]", line.strip(), maxsplit=1)[0].lower()


def unread_by_paramiko(texts: Iterable[str]) -> tuple[str, ...]:
    """A sentence for each kind of line in ssh_config that only OpenSSH obeys. `texts` are the files."""
    found: dict[str, None] = {}
    for line in (line.strip() for text in texts for line in text.splitlines()):
        keyword, _, rest = re.sub(r"\s*=\s*|\s+", " ", line, count=1).partition(" ")
        name = keyword.lower()
        unknown = name == "match" and {word.partition("=")[0].lower().lstrip("!") for word in rest.split()[::2]}
        if name in PARAMIKO_UNREAD or (unknown and not unknown <= PARAMIKO_CRITERIA):
            found[f"`{line}` has no effect: this machine has no ssh client, and ssh_config is read without it"] = None
    return tuple(found)
