#!/usr/bin/env python3
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab: throwaway Debian 13 hosts on this machine, reached by SSH as a VPS is.

Each host is a systemd-nspawn machine over an overlay: a cached, read-only image below and one writable directory
above. The overlay is mounted in the host's own mount namespace, so it is gone with the host whatever ends it.
docs/lab.md explains the parts.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import hashlib
import ipaddress
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from certificates import issue
from zones import peer_dkim_key, publish_base

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
# another place is another lab beside it
STATE = Path(os.environ.get("MAILWRIGHT_LAB", CHECKOUT / ".lab")).absolute()
CACHE = Path(os.environ.get("MAILWRIGHT_LAB_CACHE", "/var/cache/mailwright-lab"))
GENERATION = CACHE / "generation"
# How long images are taken for up to date.
FRESH_SECONDS = 3600
REGISTRY = Path("/run/mailwright-lab")
# TEST-NET-2 and 3: no private ranges, so that the mail software treats the hosts as it treats the internet.
POOL = [
    network
    for documentation in ("198.51.100.0/24", "203.0.113.0/24")
    for network in ipaddress.IPv4Network(documentation).subnets(new_prefix=27)
]
PROXY_PORT = 3143
ACME_PORT, ACME_MANAGEMENT_PORT = 14000, 15000
BASE_PACKAGES = [
    "systemd", "systemd-sysv", "dbus", "udev", "python3", "python3-apt", "iproute2", "ca-certificates",
    "openssh-server",
]  # fmt: skip
# as many as a public CA would put into it
MX1_NAMES = ["mx1.acme.test"] + [
    f"{service}.{domain}"
    for domain in ("acme.test", "globex.test")
    for service in ("autoconfig", "autodiscover", "mta-sts")
]
HOST_NUMBER = {"ns1": 2, "mx1": 10, "peer": 20}
# Each host's systemd and daemons take about 25 inotify instances of root's; the kernel's usual 128 are five hosts'.
INOTIFY_INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances")
ENOUGH_INSTANCES = 2048


@dataclass(frozen=True)
class Image:
    """A cached root file system: the base, or a layer of packages over it."""

    name: str
    packages: tuple[str, ...] = ()

    def path(self, generation: str) -> Path:
        """A new generation of all images is made when Debian has updates for the base."""
        text = json.dumps([self.name, BASE_PACKAGES, self.packages, generation])
        return CACHE / f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


BASE = Image("base")
IMAGES = {
    "ns1": Image("ns1", ("knot", "nginx-light", "pdns-server", "pdns-backend-sqlite3", "pebble")),
    "peer": Image(
        "peer",
        (
            "postfix",
            "dkimpy-milter",
            "dovecot-imapd",
            "opendkim",
            "opendkim-tools",
            "opendmarc",
            "publicsuffix",
            "swaks",
            "postfix-mta-sts-resolver",
            "unbound",
        ),
    ),
}


@dataclass
class Lab:
    """What one checkout's lab is: its number, network and secrets. Kept in .lab/lab.json."""

    number: int
    password: str = field(default_factory=lambda: "lab-" + secrets.token_urlsafe(9))
    tsig: str = field(default_factory=lambda: secrets.token_hex(16))
    pdns: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def api_key(self) -> str:
        """The key of the sending API that the inventory declares."""
        return self.derived_key("api")

    @property
    def tenant_key(self) -> str:
        """The key of the tenant that the inventory declares."""
        return self.derived_key("tenant")

    @property
    def operator_key(self) -> str:
        """The key of an operator that the inventory declares."""
        return self.derived_key("operator")

    def derived_key(self, purpose: str) -> str:
        """A key of the sending API, the same each time."""
        digest = hashlib.sha256(f"{purpose} {self.tsig}".encode()).hexdigest()
        return f"mw_{digest[:12]}_{digest[12:60]}"

    @property
    def acme_tsig(self) -> str:
        """The secret, in base64, of the key that may change _acme-challenge names alone."""
        return base64.b64encode(hashlib.sha256(f"acme {self.tsig}".encode()).digest()).decode()

    @property
    def network(self) -> ipaddress.IPv4Network:
        return POOL[self.number]

    @property
    def reverse_zone(self) -> str:
        return self.network[0].reverse_pointer.partition(".")[2]

    @property
    def bridge(self) -> str:
        return f"mwlab{self.number}"

    @property
    def gateway(self) -> str:
        return str(self.network[1])

    def address(self, host: str) -> str:
        if host in HOST_NUMBER:
            return str(self.network[HOST_NUMBER[host]])
        # further hosts share what is left, by name, so that an address does not depend on who came first
        extra = sorted(p.name for p in (STATE / "hosts").iterdir() if p.name not in HOST_NUMBER)
        free = [n for n in range(11, 30) if n not in HOST_NUMBER.values()]
        taken = {(STATE / "hosts" / name / "number").read_text(): name for name in extra
                 if (STATE / "hosts" / name / "number").exists()}  # fmt: skip
        own = STATE / "hosts" / host / "number"
        if not own.exists():
            own.write_text(str(next(n for n in free if str(n) not in taken)))
        return str(self.network[int(own.read_text())])

    def save(self) -> None:
        write(STATE / "lab.json", json.dumps(self.__dict__), 0o600)


def say(text: str) -> None:
    print(f"lab: {text}", flush=True)


def run(*argv: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a program; on failure end with its own words."""
    done = subprocess.run(  # type: ignore[call-overload]
        [str(a) for a in argv], text=True, capture_output=True, stdin=subprocess.DEVNULL, check=False, **options
    )
    if done.returncode:
        command = " ".join(str(a) for a in argv)
        raise SystemExit(f"lab: {command} failed ({done.returncode}):\n{done.stdout}{done.stderr}")
    return done  # type: ignore[no-any-return]


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file in one step: others may be reading it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stage = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    stage.touch(mode=mode)
    stage.chmod(mode)
    stage.write_text(text)
    stage.rename(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


# --- the machine's namespaces ---------------------------------------------------------------------------------------


def alive(pid_file: Path) -> int | None:
    """The process recorded in the file, if that very process still runs (its start time guards against reuse)."""
    try:
        pid, started = pid_file.read_text().split()
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return int(pid) if stat[19] == started and stat[0] != "Z" else None


def record(pid_file: Path, pid: int) -> None:
    write(pid_file, f"{pid} {Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}")


def private_namespace(layers: list[Path], upper: Path, cgroup: str) -> str:
    """Shell commands that leave the caller in a mount namespace with the overlay on $ROOT and a pure cgroup v2."""
    lower = ":".join(str(path) for path in layers)
    lines = [
        "set -e",
        f"mkdir -p {upper}/up {upper}/work {upper}/root",
        f"mount -t overlay overlay -o lowerdir={lower},upperdir={upper}/up,workdir={upper}/work {upper}/root",
    ]
    if not Path("/run/systemd/system").exists():
        # No systemd to ask for a scope: make a cgroup of our own and, where v1 is mixed in, show v2 alone.
        if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
            lines += ["umount -R /sys/fs/cgroup", "mount -t cgroup2 cgroup2 /sys/fs/cgroup"]
        lines += [f"mkdir -p /sys/fs/cgroup/{cgroup}", f"echo $$ > /sys/fs/cgroup/{cgroup}/cgroup.procs"]
    return "\n".join(lines)


def nspawn(root: Path, machine: str, *options: str) -> list[str]:
    own_cgroup = [] if Path("/run/systemd/system").exists() else ["--keep-unit"]
    return ["systemd-nspawn", "--quiet", f"--directory={root}", "--register=no", *own_cgroup, f"--machine={machine}",
            "--resolv-conf=off", "--timezone=off", "--link-journal=no", *options]  # fmt: skip


def remove_cgroup(name: str) -> None:
    for top in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        base = top / name
        if base.is_dir():
            for path in sorted((p for p in base.rglob("*") if p.is_dir()), reverse=True):
                path.rmdir()
            base.rmdir()


# --- images ---------------------------------------------------------------------------------------------------------


def start_proxy(lab: Lab) -> None:
    """apt-cacher-ng on the bridge and on loopback: the hosts have no other way out."""
    pid_file = STATE / "proxy.pid"
    if alive(pid_file):
        return
    cache, settings = CACHE / f"apt{lab.number}", STATE / "proxy"
    for path in (cache, settings):
        path.mkdir(parents=True, exist_ok=True)
        shutil.chown(path, "apt-cacher-ng", "apt-cacher-ng")
    # A directory of its own: the package's settings send requests to a mirror of its own choosing.
    write(
        settings / "acng.conf",
        f"CacheDir: {cache}\nLogDir: {settings}\nPort: {PROXY_PORT}\nBindAddress: 127.0.0.1 {lab.gateway}\n"
        "ForeGround: 1\nReportPage:\nExThreshold: 30\nSupportDir: /usr/lib/apt-cacher-ng\n",
    )
    process = subprocess.Popen(
        ["setpriv", "--reuid=apt-cacher-ng", "--regid=apt-cacher-ng", "--clear-groups",
         "apt-cacher-ng", "-c", settings],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    record(pid_file, process.pid)
    wait_for(lab.gateway, PROXY_PORT, 10, "the package proxy")


def wait_for(address: str, port: int, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection((address, port), 1) as connection:
                if port != 22 or connection.recv(4) == b"SSH-":
                    return
        except OSError:
            pass
        if time.monotonic() > end:
            raise SystemExit(f"lab: {what} does not answer on {address}:{port} after {seconds:.0f} s")
        time.sleep(0.05)


def in_overlay(base: Path, name: str, script: str) -> tuple[Path, str]:
    """Run a script over the base without starting anything; the directory that caught the changes, and what it said."""
    stage = CACHE / f"building-{name}-{os.getpid()}"
    cgroup = f"mwlab-build-{name}-{os.getpid()}"
    script = f"""
        export DEBIAN_FRONTEND=noninteractive
        printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d
        proxy='-oAcquire::http::Proxy=http://127.0.0.1:{PROXY_PORT}'
        apt-get -q $proxy update
        {script}
        apt-get clean; rm /usr/sbin/policy-rc.d
    """
    command = nspawn(stage / "root", "build", "--as-pid2", "--pipe", "/bin/sh", "-ec", script)
    quoted = " ".join("'" + part.replace("'", "'\\''") + "'" for part in command)
    inner = private_namespace([base], stage, cgroup) + f"\nexec {quoted}"
    said = run("unshare", "--mount", "--propagation", "private", "sh", "-c", inner).stdout
    remove_cgroup(cgroup)
    return stage, said


def build_base() -> str:
    """Make the base unless there is one that is up to date; gives the present generation of images."""
    with locked(CACHE / "build.lock"):
        generation = GENERATION.read_text() if GENERATION.exists() else ""
        if BASE.path(generation).is_dir():
            if time.time() - GENERATION.stat().st_mtime < FRESH_SECONDS:
                return generation
            stage, said = in_overlay(BASE.path(generation), "updates", "apt-get -s dist-upgrade")
            shutil.rmtree(stage)
            if "\nInst " not in said:
                os.utime(GENERATION)
                return generation
        # what was made goes on with the images that it has
        generation = time.strftime("%Y-%m-%dT%H:%M:%S")
        started = time.monotonic()
        stage = CACHE / f"building-{os.getpid()}"
        run(
            "mmdebstrap", "--variant=minbase", "--mode=root", f"--include={','.join(BASE_PACKAGES)}",
            f'--aptopt=Acquire::http::Proxy "http://127.0.0.1:{PROXY_PORT}"',
            '--customize-hook=rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/etc/ssh/ssh_host_*_key*',
            "--customize-hook=echo uninitialized > \"$1\"/etc/machine-id",
            "--customize-hook=chroot \"$1\" systemctl enable systemd-networkd ssh",
            "--customize-hook=chroot \"$1\" systemctl disable apt-daily.timer apt-daily-upgrade.timer",
            "trixie", stage,
        )  # fmt: skip
        stage.rename(BASE.path(generation))
        write(GENERATION, generation)
        say(f"built the base image in {time.monotonic() - started:.0f} s")
        return generation


def build_layer(image: Image, generation: str) -> None:
    """Install packages over the base; what the overlay caught is the layer."""
    with locked(CACHE / f"build-{image.name}.lock"):
        if image.path(generation).is_dir():
            return
        started = time.monotonic()
        packages = " ".join(image.packages)
        script = f"apt-get -qy $proxy install --no-install-recommends {packages}"
        stage, _said = in_overlay(BASE.path(generation), image.name, script)
        (stage / "up").rename(image.path(generation))
        shutil.rmtree(stage)
        say(f"built the {image.name} image in {time.monotonic() - started:.0f} s")


# --- network --------------------------------------------------------------------------------------------------------


def mac(address: str) -> str:
    """One for each address: neighbours that knew who had it before need not notice."""
    return ":".join(f"{byte:02x}" for byte in (2, 0, *ipaddress.IPv4Address(address).packed))


def network_up(lab: Lab) -> None:
    if not Path(f"/sys/class/net/{lab.bridge}").exists():
        # a bridge without a MAC of its own takes another one whenever a host comes or goes
        run("ip", "link", "add", lab.bridge, "address", mac(lab.gateway), "type", "bridge")
        run("ip", "address", "add", f"{lab.gateway}/{lab.network.prefixlen}", "dev", lab.bridge)
        run("ip", "link", "set", lab.bridge, "up")


def network_down(lab: Lab) -> None:
    if Path(f"/sys/class/net/{lab.bridge}").exists():
        run("ip", "link", "delete", lab.bridge)


# --- hosts ----------------------------------------------------------------------------------------------------------


def tsig_base64(lab: Lab) -> str:
    """The TSIG key as name servers and their clients write it."""
    return base64.b64encode(bytes.fromhex(lab.tsig)).decode()


def host_dir(name: str) -> Path:
    return STATE / "hosts" / name


def copy_tree(source: Path, target: Path, values: dict[str, str]) -> None:
    """Copy a host's hand-written files, with @NAME@ replaced."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            text = path.read_text()
            for key, value in values.items():
                text = text.replace(f"@{key}@", value)
            write(target / path.relative_to(source), text, 0o755 if os.access(path, os.X_OK) else 0o644)


def prepare_host(lab: Lab, name: str) -> None:
    """What a VPS provider puts on a new machine: address, name, resolver, root's SSH key. And the mirror's proxy."""
    up = host_dir(name) / "up"
    address = lab.address(name)
    write(up / "etc/hostname", name + "\n")
    write(up / "etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n{address} {name}\n")
    write(up / "etc/resolv.conf", f"nameserver {lab.address('ns1')}\n")
    # must sort before systemd's own 80-container-host0.network
    write(
        up / "etc/systemd/network/10-host0.network",
        f"[Match]\nName=host0\n\n[Link]\nMACAddress={mac(address)}\n\n[Network]\n"
        f"Address={address}/{lab.network.prefixlen}\nGateway={lab.gateway}\n"
        "LinkLocalAddressing=no\nIPv6AcceptRA=no\n",
    )
    write(up / "etc/apt/apt.conf.d/00proxy", f'Acquire::http::Proxy "http://{lab.gateway}:{PROXY_PORT}";\n')
    write(up / "root/.ssh/authorized_keys", (STATE / "id_ed25519.pub").read_text(), 0o600)
    (up / "root").chmod(0o700)
    (up / "root/.ssh").chmod(0o700)
    shutil.copy(STATE / "host_key", up / "etc/ssh/ssh_host_ed25519_key") if (up / "etc/ssh").exists() else write(
        up / "etc/ssh/ssh_host_ed25519_key", (STATE / "host_key").read_text(), 0o600
    )
    write(up / "etc/ssh/ssh_host_ed25519_key.pub", (STATE / "host_key.pub").read_text())
    values = {"PASSWORD": lab.password, "TSIG_BASE64": tsig_base64(lab), "PDNS_KEY": lab.pdns}
    values["NETWORK"], values["REVERSE"] = str(lab.network), lab.reverse_zone
    values["ACME_TSIG_BASE64"] = lab.acme_tsig
    for other in HOST_NUMBER:
        values[other.upper()] = lab.address(other)
        values[f"{other.upper()}_LAST"] = lab.address(other).rpartition(".")[2]
    if name == "ns1":
        certificate, key = issue(STATE / "ca", "ns1.lab.test", ["ns1.lab.test"])
        write(up / "etc/pebble/ns1.pem", certificate)
        write(up / "etc/pebble/ns1.key", key)
        wants = up / "etc/systemd/system/multi-user.target.wants"
        wants.mkdir(parents=True, exist_ok=True)
        (wants / "pebble.service").symlink_to("/etc/systemd/system/pebble.service")
    if name == "peer":
        write(up / "etc/dkimkeys/peer.private", peer_dkim_key(STATE), 0o600)
        certificate, key = issue(STATE / "ca", "peer.peer.test", ["peer.peer.test"])
        write(up / "etc/ssl/peer.pem", certificate)
        write(up / "etc/ssl/peer.key", key, 0o600)
    if (HERE / "hosts" / name).is_dir():
        copy_tree(HERE / "hosts" / name, up, values)


def start_host(lab: Lab, name: str, generation: str) -> float:
    """Boot a host unless it runs; gives the seconds until SSH answered."""
    pid_file = host_dir(name) / "pid"
    if alive(pid_file):
        return 0.0
    if not (host_dir(name) / "up").exists():
        images = [IMAGES[name], BASE] if name in IMAGES else [BASE]
        write(host_dir(name) / "layers", "".join(f"{image.path(generation)}\n" for image in images))
        prepare_host(lab, name)
    layers = [Path(line) for line in (host_dir(name) / "layers").read_text().splitlines()]
    machine = f"{name}-lab{lab.number}"
    command = nspawn(
        host_dir(name) / "root", machine, "--boot", f"--hostname={name}", f"--network-bridge={lab.bridge}",
        "--console=read-only",
    )  # fmt: skip
    inner = private_namespace(layers, host_dir(name), machine) + "\nexec " + " ".join(command)
    started = time.monotonic()
    with (host_dir(name) / "console.log").open("w") as console:
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", inner],
            stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
        )  # fmt: skip
    record(pid_file, process.pid)
    try:
        wait_for(lab.address(name), 22, 90, name)
    except SystemExit as error:
        raise SystemExit(f"{error}; its console:\n{(host_dir(name) / 'console.log').read_text()[-2000:]}") from None
    return time.monotonic() - started


def leader(nspawn_pid: int) -> int | None:
    """The host's own PID 1, seen from outside."""
    children = Path(f"/proc/{nspawn_pid}/task/{nspawn_pid}/children").read_text().split()
    return int(children[0]) if children else None


def stop_host(lab: Lab, name: str, *, power_cut: bool = False) -> None:
    pid_file = host_dir(name) / "pid"
    pid = alive(pid_file)
    if pid is None:
        return
    if power_cut:
        os.kill(leader(pid) or pid, signal.SIGKILL)
    else:
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + 20
    while alive(pid_file):
        if time.monotonic() > end:
            os.kill(leader(pid) or pid, signal.SIGKILL)
            end = time.monotonic() + 5
        time.sleep(0.05)
    remove_cgroup(f"{name}-lab{lab.number}")
    pid_file.unlink()


def export_acme_root(lab: Lab) -> None:
    """Pebble makes a new root whenever it starts; .lab/ca/acme.pem is the present one."""
    address = lab.address("ns1")
    wait_for(address, ACME_MANAGEMENT_PORT, 20, "Pebble")
    context = ssl.create_default_context(cafile=str(STATE / "ca/ca.pem"))
    with (
        socket.create_connection((address, ACME_MANAGEMENT_PORT), 10) as plain,
        context.wrap_socket(plain, server_hostname="ns1.lab.test") as secured,
    ):
        secured.sendall(b"GET /roots/0 HTTP/1.0\r\nHost: ns1.lab.test\r\n\r\n")
        answer = b"".join(iter(lambda: secured.recv(4096), b""))
    write(STATE / "ca/acme.pem", answer.partition(b"\r\n\r\n")[2].decode())


# --- the lab as a whole ---------------------------------------------------------------------------------------------


def load() -> Lab | None:
    try:
        return Lab(**json.loads((STATE / "lab.json").read_text()))
    except FileNotFoundError:
        return None


def hosts_running() -> list[str]:
    directory = STATE / "hosts"
    return [p.name for p in sorted(directory.iterdir()) if alive(p / "pid")] if directory.is_dir() else []


def claim_number() -> int:
    """The lowest network nobody uses; networks of labs that died without `lab-down` are taken back."""
    with locked(REGISTRY / "lock"):
        for number in range(len(POOL)):
            entry = REGISTRY / str(number)
            if entry.exists():
                owner = Path(entry.read_text())
                if owner != STATE and any(alive(p) for p in owner.glob("hosts/*/pid")):
                    continue
                network_down(Lab(number, "", ""))
            elif Path(f"/sys/class/net/mwlab{number}").exists():
                network_down(Lab(number, "", ""))
            entry.write_text(str(STATE))
            return number
    raise SystemExit(f"lab: all {len(POOL)} networks are in use; run `make lab-down` in a checkout you no longer need")


def keys() -> None:
    for name in ("id_ed25519", "host_key"):
        if not (STATE / name).exists():
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"mailwright-lab-{name}", "-f", STATE / name)


def write_contract(lab: Lab) -> None:
    """The files people and checks rely on: ssh_config, env, inventory.yml."""
    names = sorted(p.name for p in (STATE / "hosts").iterdir())
    ssh = "".join(f"Host {name}\n  HostName {lab.address(name)}\n" for name in names)
    write(
        STATE / "ssh_config",
        f"{ssh}Host *\n  User root\n  IdentityFile {STATE}/id_ed25519\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {STATE}/known_hosts\n  StrictHostKeyChecking yes\n  LogLevel ERROR\n",
    )
    host_key = " ".join((STATE / "host_key.pub").read_text().split()[:2])
    write(STATE / "known_hosts", "".join(f"{lab.address(name)} {host_key}\n" for name in names))
    root = "".join(line + "\n" for line in (STATE / "root.ds").read_text().splitlines())
    certificate, key = STATE / "mx1.pem", STATE / "mx1.key"
    if not certificate.exists():
        pem, private = issue(STATE / "ca", "mx1.acme.test", MX1_NAMES)
        write(certificate, pem)
        write(key, private, 0o600)
    values = {"STATE": str(STATE), "PASSWORD": lab.password, "MX1": lab.address("mx1"), "NS1": lab.address("ns1"),
              "PEER": lab.address("peer"), "TRUST_ANCHOR": root.strip(), "TSIG": tsig_base64(lab),
              "REVERSE": lab.reverse_zone, "API_KEY": lab.api_key,
              "TENANT_KEY": lab.tenant_key, "OPERATOR_KEY": lab.operator_key}  # fmt: skip
    text = (HERE / "inventory.yml.in").read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    write(STATE / "inventory.yml", text, 0o600)
    exports = {
        **{f"LAB_{name.upper().replace('-', '_')}": lab.address(name) for name in names},
        "LAB_PASSWORD": lab.password,
        "LAB_TSIG": tsig_base64(lab),
        "LAB_PDNS_KEY": lab.pdns,
        "LAB_API_KEY": lab.api_key,
        "LAB_TENANT_KEY": lab.tenant_key,
        "LAB_OPERATOR_KEY": lab.operator_key,
        "LAB_CA": str(STATE / "ca/ca.pem"),
        "LAB_ACME_CA": str(STATE / "ca/acme.pem"),
        "LAB_ACME_DIRECTORY": f"https://ns1.lab.test:{ACME_PORT}/dir",
        "LAB_ACME_TSIG": lab.acme_tsig,
        "ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / ".collections"),
        "PATH": f"{CHECKOUT}/.venv/bin:$PATH",
    }
    write(STATE / "env", "".join(f'export {key}="{value}"\n' for key, value in exports.items()), 0o600)


def up(names: list[str]) -> None:
    STATE.mkdir(exist_ok=True)
    if int(INOTIFY_INSTANCES.read_text()) < ENOUGH_INSTANCES:
        INOTIFY_INSTANCES.write_text(str(ENOUGH_INSTANCES))
    lab = load()
    if lab is None or not hosts_running():
        number = claim_number()
        if lab is None or lab.number != number:
            lab = Lab(number) if lab is None else Lab(number, lab.password, lab.tsig, lab.pdns)
            shutil.rmtree(STATE / "hosts", ignore_errors=True)
        lab.save()
    keys()
    network_up(lab)
    start_proxy(lab)
    generation = build_base()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: build_layer(IMAGES[name], generation), IMAGES.keys() & set(names)))
        for name in names:
            host_dir(name).mkdir(parents=True, exist_ok=True)
            lab.address(name)  # takes a number, one host after the other
        times = list(pool.map(lambda name: start_host(lab, name, generation), names))
    for name, seconds in zip(names, times, strict=True):
        say(f"{name} {lab.address(name)} " + (f"answered SSH after {seconds:.1f} s" if seconds else "was running"))
    if "ns1" in names:
        export_acme_root(lab)
        publish_base(STATE, lab.tsig, {name: lab.address(name) for name in ("ns1", "mx1", "peer")})
    write_contract(lab)


def down(names: list[str], *, forget: bool) -> None:
    lab = load()
    if lab is None:
        return
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: stop_host(lab, name), names or hosts_running()))
    for name in names:
        shutil.rmtree(host_dir(name), ignore_errors=True)
    if names or hosts_running():
        write_contract(lab)
        return
    proxy = alive(STATE / "proxy.pid")
    if proxy:
        os.kill(proxy, signal.SIGTERM)
    network_down(lab)
    (REGISTRY / str(lab.number)).unlink(missing_ok=True)
    if forget:
        shutil.rmtree(STATE)


def main() -> None:
    parser = argparse.ArgumentParser(description="Throwaway Debian 13 hosts on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("up", "boot the named hosts (default: ns1 mx1 peer), making what is missing"),
        ("down", "stop and forget the named hosts (default: the whole lab)"),
        ("stop", "stop the named hosts cleanly, keeping their disks"),
        ("power-cut", "end the named hosts as a power cut would, keeping their disks"),
    ):
        commands.add_parser(name, help=text).add_argument("hosts", nargs="*")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("lab: needs root (systemd-nspawn, a bridge and overlay mounts): use sudo")
    if arguments.command == "up":
        up(arguments.hosts or ["ns1", "mx1", "peer"])
    elif arguments.command == "down":
        down(arguments.hosts, forget=True)
    else:
        lab = load()
        if lab is None:
            raise SystemExit("lab: there is no lab here: run `make lab`")
        for name in arguments.hosts:
            stop_host(lab, name, power_cut=arguments.command == "power-cut")


if __name__ == "__main__":
    main()
