"""Every option that `ssh -G` prints: honoured here, of no concern here, or not supported, and then named to the user.

One table, so that an option that a later OpenSSH adds is noticed: what is not in it counts as not supported.
"""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.hosts.ssh.openssh import Answer


def _options(*groups: str) -> frozenset[str]:
    return frozenset(name for group in groups for name in group.split())


HONOURED = _options(
    # Where the machine is, and how it is reached.
    "host hostname user port addressfamily bindaddress bindinterface connectionattempts proxycommand proxyjump "
    "proxyusefdpass tcpkeepalive compression",
    # Which keys log in.
    "identityfile identitiesonly identityagent certificatefile pubkeyauthentication pubkeyacceptedalgorithms "
    "pubkeyacceptedkeytypes",
    # Which host keys are trusted.
    "userknownhostsfile globalknownhostsfile hostkeyalias hostkeyalgorithms casignaturealgorithms revokedhostkeys "
    "requiredrsasize "
    "ciphers macs kexalgorithms setenv",
    # ssh has applied these before it prints `hostname` and the rest.
    "canonicaldomains canonicalizefallbacklocal canonicalizehostname canonicalizemaxdots canonicalizepermittedcnames "
    "ignoreunknown include tag",
)

IRRELEVANT = _options(
    # clusterctl forwards nothing to the nodes, and has no terminal there but in `clusterctl shell`.
    "forwardagent forwardx11 forwardx11timeout forwardx11trusted xauthlocation localforward remoteforward "
    "dynamicforward clearallforwardings exitonforwardfailure gatewayports permitremoteopen streamlocalbindmask "
    "streamlocalbindunlink tunnel tunneldevice remotecommand requesttty sessiontype stdinnull forkafterauthentication "
    "escapechar enableescapecommandline",
    # Its commands print what is parsed here: their language is not the operator's.
    "sendenv",
    # It has its own: timeouts.connect_s, keepalives, one connection that everything shares.
    "connecttimeout serveraliveinterval serveralivecountmax controlmaster controlpath controlpersist",
    # It asks nobody anything, and logs nothing of SSH.
    "batchmode numberofpasswordprompts passwordauthentication kbdinteractiveauthentication "
    "challengeresponseauthentication kbdinteractivedevices loglevel logverbose syslogfacility fingerprinthash "
    "visualhostkey addkeystoagent localcommand",
    # What ssh writes into known_hosts by itself. Here only --accept-new-host-keys writes.
    "hashknownhosts updatehostkeys",
    # Other ways to log in than a key. They are tried in turn: a key that is accepted is accepted without them.
    "gssapiauthentication gssapidelegatecredentials gssapiclientidentity gssapikexalgorithms gssapikeyexchange "
    "gssapirenewalforcesrekey gssapiserveridentity gssapitrustdns hostbasedauthentication hostbasedacceptedalgorithms "
    "hostbasedkeytypes enablesshkeysign "
    "ipqos rekeylimit obscurekeystroketiming channeltimeout warnweakcrypto refuseconnection",
)

BECAUSE = {
    "StrictHostKeyChecking": "unknown host keys are always refused; --accept-new-host-keys pins them",
    "NoHostAuthenticationForLocalhost": "host keys are always checked",
    "CheckHostIP": "a host key is looked up by the host's name alone",
    "VerifyHostKeyDNS": "host keys in DNS are not looked up",
    "KnownHostsCommand": "host keys are looked up in files alone",
    "PKCS11Provider": "load the token's keys into an agent: ssh-add -s",
    "SecurityKeyProvider": "load the key into an agent: ssh-add",
    "PreferredAuthentications": "a login is by key, and by nothing else",
    "PermitLocalCommand": "no command is run here after the login",
}
"""Options that are known and not supported, with what holds in their place."""

_NAMES = {name.lower(): name for name in BECAUSE}

_PRINTED = {"true": "yes", "false": "no"}
"""What `ssh -G` prints → what was written."""

_UNIMPORTANT = {
    # Two that say the same as what holds here anyway.
    "stricthostkeychecking": {"ask", "yes", "true"},
    "preferredauthentications": {"publickey"},
}


def not_followed(answer: Answer, defaults: Answer) -> Iterator[str]:
    """What is set and not supported: `Option value: what holds in its place`. Defaults are those of this OpenSSH."""
    for name, values in answer.items():
        if name in HONOURED or name in IRRELEVANT or values == defaults.get(name):
            continue
        text = " ".join(values)
        if text.lower() in _UNIMPORTANT.get(name, ()) or (not defaults and text.lower() in ("no", "none")):
            continue
        if name == "preferredauthentications" and "publickey" in text.split(","):
            continue
        written = _NAMES.get(name, name)
        because = BECAUSE.get(written, "it has no effect here")
        yield f"{written} {_PRINTED.get(text, text)} is not supported: {because}"


def chosen(answer: Answer, defaults: Answer, name: str) -> tuple[str, ...] | None:
    """The algorithms of a list that somebody chose; None where it is OpenSSH's own, or one that paramiko cannot
    resolve (`+`, `-` and `^` change OpenSSH's list, which only `ssh -G` knows)."""
    values = answer.get(name)
    if not values or values == defaults.get(name) or values[0][:1] in ("+", "-", "^"):
        return None
    return tuple(value for value in values[0].split(",") if value)
