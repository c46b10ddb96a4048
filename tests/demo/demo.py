# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From nothing to a mail server that is proved to work: boots the lab, applies the built collection, proves it.

A second run reuses what is there: the hosts, and the applied mail server as long as collection and inventory are the
same. It then goes straight to the proof, so what somebody broke on the hosts stays broken and shows.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
sys.path[:0] = [str(CHECKOUT / "tests/lab"), str(CHECKOUT / "tests/e2e"), str(HERE)]

import lab as lab_hosts  # noqa: E402
import prove  # noqa: E402
from connection import Lab  # noqa: E402

ARTIFACT = CHECKOUT / ".lab/artifact"


def step(text: str) -> None:
    print(f"\n== {text} ({time.monotonic() - STARTED:.0f} s)", flush=True)


def install_artifact() -> str:
    """Build the collection and install the artifact into an empty path; gives a digest of what it holds."""
    build = CHECKOUT / ".lab/build"
    for path in (ARTIFACT, build):
        shutil.rmtree(path, ignore_errors=True)
    galaxy = [str(CHECKOUT / ".venv/bin/ansible-galaxy"), "collection"]
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ARTIFACT)}

    def quietly(*command: str) -> None:
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)

    quietly(*galaxy, "build", str(CHECKOUT), "--output-path", str(build))
    quietly(*galaxy, "install", "--offline", "-p", str(ARTIFACT), str(next(build.glob("*.tar.gz"))))
    files = json.loads((ARTIFACT / "ansible_collections/mailwright/server/FILES.json").read_text())["files"]
    text = json.dumps(sorted((entry["name"], entry["chksum_sha256"]) for entry in files))
    return hashlib.sha256(text.encode()).hexdigest()


def apply() -> None:
    """Run site from the installed artifact, away from the checkout."""
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ARTIFACT)}
    command = [str(CHECKOUT / ".venv/bin/ansible-playbook"), "-i", str(CHECKOUT / ".lab/inventory.yml"),
               "mailwright.server.site"]  # fmt: skip
    done = subprocess.run(command, check=False, env=environment, cwd=CHECKOUT / ".lab", stdin=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit("demo: site failed; see above")


def main() -> int:
    step("the lab: ns1, mx1, peer")
    lab_hosts.up(["ns1", "mx1", "peer"])
    lab = Lab.load()
    step("the collection, built and installed into an empty path")
    digest = hashlib.sha256((install_artifact() + (lab.state / "inventory.yml").read_text()).encode()).hexdigest()
    stamp = lab.state / "hosts/mx1/applied"
    if stamp.exists() and stamp.read_text() == digest:
        print("mx1 has it already: nothing to apply")
    else:
        stamp.unlink(missing_ok=True)
        step("site, applied to mx1, the records published at ns1")
        apply()
        stamp.write_text(digest)
    step("the proof")
    good = prove.prove(lab)
    print(
        f"\nWebmail:   https://mx1.acme.test/   (mx1.acme.test is {lab.address('mx1')}; CA: {lab.env['LAB_CA']})"
        f"\nAccounts:  alice@acme.test bob@acme.test carol@globex.test, password {lab.password}"
        f"\nAPI key:   {lab.env['LAB_API_KEY']}, for acme.test; this sends:"
        f"\n  {prove.send_by_api(lab, 'Hello')}"
        f"\nHosts:     ssh -F {lab.state}/ssh_config mx1      (also ns1, peer)"
        f"\nThe lab keeps running; `make lab-down` ends it. Total {time.monotonic() - STARTED:.0f} s."
    )
    return 0 if good else 1


if __name__ == "__main__":
    STARTED = time.monotonic()
    if os.geteuid() != 0:
        raise SystemExit("demo: needs root (systemd-nspawn, a bridge and overlay mounts): use sudo make demo")
    sys.exit(main())
