# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the status report says of the warm-up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ansible_collections.mailwright.server.plugins.module_utils.probes.warmup import LISTED, Waiting, evaluate
from ansible_collections.mailwright.server.plugins.module_utils.sending import warmup
from ansible_collections.mailwright.server.plugins.module_utils.sending.warmup import Ramp

NOW = datetime(2027, 3, 5, 13, 20, tzinfo=UTC)
HOUR = warmup.hour_of(NOW)
SCHEDULE = (250, 300, 360, 440)


def test_before_the_first_message() -> None:
    found = evaluate({}, {}, SCHEDULE, NOW)
    assert (found.status, found.summary, found.detail) == ("ok", "step 1 of 4, 0 of 250 sent today", ())


def test_a_day_that_goes_well_and_what_waits() -> None:
    ramps = {"*": Ramp(stage=1, hour=HOUR, sent_day=120), "google.com": Ramp(stage=0, hour=HOUR, sent_day=100)}
    found = evaluate(ramps, {"google.com": Waiting(30, NOW - timedelta(minutes=90))}, SCHEDULE, NOW)
    assert (found.status, found.summary) == ("ok", "step 2 of 4, 120 of 300 sent today, 30 wait")
    assert found.detail == ("google.com: step 1 of 4, 100 of 250 sent today, 30 wait for up to 90 min",)
    assert found.data["google.com"]["waiting"] == found.data["*"]["waiting"] == 30


def test_what_the_dispatcher_has_not_turned_yet_is_of_another_day() -> None:
    ramp = Ramp(stage=1, hour=HOUR - timedelta(days=1), sent_day=290)
    assert evaluate({"*": ramp}, {}, SCHEDULE, NOW).summary == "step 3 of 4, 0 of 360 sent today"


def test_the_end_of_the_ramp() -> None:
    assert evaluate({"*": Ramp(stage=4, hour=HOUR, sent_day=9)}, {}, SCHEDULE, NOW).summary == "over, 9 sent today"


def test_a_refusal_for_reputation_warns_for_a_day() -> None:
    ramp = warmup.observe(Ramp(stage=3, hour=HOUR), NOW - timedelta(minutes=10), refused=True)
    found = evaluate({"*": Ramp(hour=HOUR), "outlook.com": ramp}, {}, SCHEDULE, NOW)
    assert found.status == "warn"
    line = "outlook.com: step 2 of 4, 0 of 300 sent today, refused this address on 2027-03-05: 2 steps back"
    assert found.detail == (f"{line}, nothing is sent until 14:10 UTC",)
    later = evaluate({"outlook.com": ramp}, {}, SCHEDULE, NOW + timedelta(hours=5))
    assert later.status == "warn" and "until" not in later.detail[0]
    assert evaluate({"outlook.com": ramp}, {}, SCHEDULE, NOW + timedelta(days=2)).status == "ok"


def test_what_waits_for_a_day_warns_and_few_are_listed() -> None:
    waiting = {f"{number}.test": Waiting(number + 1, NOW - timedelta(hours=23)) for number in range(LISTED + 2)}
    found = evaluate({}, waiting, SCHEDULE, NOW)
    assert found.status == "ok"
    assert found.detail[0].startswith(f"{LISTED + 1}.test:") and found.detail[-1] == "and 2 receivers more"
    assert evaluate({}, waiting, SCHEDULE, NOW + timedelta(hours=1)).status == "warn"
