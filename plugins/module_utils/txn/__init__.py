# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes of a host that end committed or rolled back, whatever interrupts them. Standard library only."""
