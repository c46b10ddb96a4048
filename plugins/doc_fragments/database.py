# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a module reaches the directory's database."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of the modules that connect to PostgreSQL."""

    DOCUMENTATION = r"""
options:
  socket:
    description: Directory of the server's Unix socket.
    type: path
    default: /var/run/postgresql
  dbname:
    description: Name of the directory's database.
    type: str
    default: mailwright
"""
