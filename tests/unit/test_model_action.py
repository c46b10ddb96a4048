# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action in real ansible-playbook runs: templates and vaults are resolved, errors are readable, secrets are not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  tasks:
    - mailwright.server.model:
        ignore: [mail_of_others]
        defaults: {addresses: [198.51.100.10, '']}
      register: mailwright_inventory
    - ansible.builtin.set_fact:
        mail_model: "{{ mailwright_inventory.model }}"
      no_log: true
    - mailwright.server.model:
        ignore: [mail_of_others]
    - ansible.builtin.copy:
        content: "{{ mail_model | to_json }}"
        dest: "{{ playbook_dir }}/model.json"
        mode: "0600"
      no_log: true
"""

GOOD = """
mail_hostname: mx1.acme.test
mail_admin: hostmaster@acme.test
mail_of_others: x
secret_bob: S3cretTemplated
mail_domains:
  - name: "{{ 'acme' ~ '.test' }}"
    mailboxes:
      - name: alice
        display_name: "{{ omit }}"
        password: VAULTED
      - name: bob
        password: "{{ secret_bob }}"
      - name: carol
        password: S3cretLiteral
        enabled: false
      - name: dora
        password: !unsafe 'S3cret{{ x }}'
    aliases: [{name: hostmaster, to: [alice, carol]}]
mail_domains__more: "{{ [{'name': 'b.test', 'mailboxes': [{'name': 'eve', 'password': secret_bob}]}] }}"
"""

BAD = """
mail_hostname: mx1.acme.test
mail_admin: hostmaster@acme.test
mail_domain: [S3cretMisplaced]
secret_bob: S3cretTemplated
mail_domains:
  - name: acme.test
    mailboxes:
      - name: alice
        password: VAULTED
        quota: 5X
      - name: bob
        password: "{{ secret_bobb }}"
      - name: carol
        password: "{{ secret_bob | from_json }}"
      - name: dora
        passwrd: S3cretLiteral
      - {name: hostmaster, password: S3cretAdmin}
mail_domains__w: "{{ ['S3cretQuoted'] | items2dict }}"
mail_domains__x: "{{ '[S3cretBroken, {' | from_yaml }}"
"""


def run_playbook(folder: Path, variables: str) -> tuple[int, str]:
    """Run the playbook as loudly as a person would, and return its exit code and all that it printed."""
    (folder / "play.yml").write_text(PLAYBOOK)
    (folder / "vault").write_text("the vault's password\n")
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_HOME": str(folder)}
    environment.pop("PYTHONPATH", None)
    made = subprocess.run(
        [BIN / "ansible-vault", "encrypt_string", "--vault-password-file", folder / "vault", "S3cretVaulted"],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env=environment,
    )
    vaulted = made.stdout.replace("\n", "\n" + " " * 10)
    (folder / "variables.yml").write_text(variables.replace("VAULTED", vaulted))
    command: list[str | Path] = [BIN / "ansible-playbook", "-i", "localhost,", "-c", "local", "-vvv", "--diff"]
    command += ["-e", f"ansible_python_interpreter={sys.executable}"]
    command += ["--vault-password-file", folder / "vault", "-e", f"@{folder / 'variables.yml'}", folder / "play.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert shutil.which("ansible-playbook", path=str(BIN)), "ansible-core must be installed beside pytest"
    return tmp_path


def test_success_hands_over_secrets_without_showing_them(folder: Path) -> None:
    code, output = run_playbook(folder, GOOD)
    assert code == 0, output
    model = json.loads((folder / "model.json").read_text())
    assert {box["address"]: box["password"] for box in model["mailboxes"]} == {
        "alice@acme.test": "S3cretVaulted",
        "bob@acme.test": "S3cretTemplated",
        "carol@acme.test": "S3cretLiteral",
        "dora@acme.test": "S3cret{{ x }}",
        "eve@b.test": "S3cretTemplated",
    }
    assert model["addresses"] == {"ipv4": ["198.51.100.10"], "ipv6": []}
    assert "'carol@acme.test' is a mailbox that is switched off" in output
    assert "S3cret" not in output


def test_failure_is_readable_and_shows_no_secret(folder: Path) -> None:
    code, output = run_playbook(folder, BAD)
    assert code == 2, output
    assert "S3cret" not in output
    assert "censored" not in output
    for line in (
        "The inventory has 8 mistakes:",
        "mail_domains[0].mailboxes[1].password: cannot be read: 'secret_bobb' is undefined",
        "mail_domains[0].mailboxes[2].password: cannot be read (",
        "mail_domains__w: cannot be read: The filter plugin 'ansible.builtin.items2dict' failed (what it says is not",
        "mail_domains__x: cannot be read: ",
        "mail_domain: is not a variable that is known: did you mean mail_domains?",
        "mail_domains[0].mailboxes[3].passwrd: is not a key that is known here: did you mean password?",
        "mail_domains[0].mailboxes[0].quota: '5X' is not a size: write a number with K, M, G or T, such as 2G",
        "mail_domains[0].mailboxes[3]: has neither a password nor a password_hash: give exactly one of them",
    ):
        assert f"\n{line}" in output or line in output.split("[ERROR]")[1].splitlines()[0], line
