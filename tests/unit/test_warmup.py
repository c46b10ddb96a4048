# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Warm-up: what may go out when, whatever happens in whatever order."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.sending import warmup
from ansible_collections.mailwright.server.plugins.module_utils.sending.warmup import SCHEDULE, Ramp
from hypothesis import given, settings
from hypothesis import strategies as st

START = datetime(2026, 11, 2, tzinfo=UTC)
SHORT = (20, 24, 29, 40)


def hours(ramp: Ramp, first: datetime, count: int, demand: int, schedule: tuple[int, ...]) -> tuple[Ramp, list[int]]:
    """Send what may be sent, in hours of four moments each; what went out in each hour."""
    sent = []
    for number in range(count):
        out = 0
        for minute in (0, 17, 40, 59):
            now = first + timedelta(hours=number, minutes=minute)
            ramp = warmup.turn(ramp, now, schedule, 0)
            room = warmup.room(ramp, now, schedule)
            amount = demand - out if room is None else min(room, demand - out)
            ramp, out = warmup.take(ramp, amount), out + amount
        sent.append(out)
    return ramp, sent


def test_thirty_days_take_an_address_from_the_first_cap_to_none() -> None:
    ramp, days = Ramp(), []
    for day in range(30):
        ramp, sent = hours(ramp, START + timedelta(days=day), 24, 10**6, SCHEDULE)
        assert max(sent) == warmup.hourly(SCHEDULE[day])
        days.append(sum(sent))
    assert days == list(SCHEDULE)
    ramp, sent = hours(ramp, START + timedelta(days=30), 1, 10**6, SCHEDULE)
    assert sent == [10**6] and warmup.cap(ramp, SCHEDULE) is None


def test_an_hour_is_spread_over_its_minutes() -> None:
    # 60 in an hour: one a minute, and what was not sent in time may still go out in the same hour
    ramp, schedule = warmup.turn(Ramp(), START, (600,), 0), (600,)
    assert [warmup.room(ramp, START + timedelta(minutes=minute), schedule) for minute in (0, 1, 30, 59)] == [
        1,
        2,
        31,
        60,
    ]
    ramp = warmup.take(ramp, 1)
    assert warmup.room(ramp, START, schedule) == 0 and warmup.left(ramp, START, schedule) == 59


@pytest.mark.parametrize(
    ("sent", "bounced", "complained", "grows"),
    [(10, 0, 0, True), (9, 0, 0, False), (20, 1, 0, False), (20, 0, 1, False), (20, 0, 0, True), (0, 0, 0, False)],
)
def test_a_day_earns_the_next_step_only_by_good_use(sent: int, bounced: int, complained: int, grows: bool) -> None:
    ramp = warmup.take(warmup.turn(Ramp(), START, SHORT, 0), sent)
    ramp = warmup.observe(ramp, START, bounced, complained)
    assert warmup.turn(ramp, START + timedelta(days=1), SHORT, 0).stage == int(grows)
    # and one step, however many days later
    assert warmup.turn(ramp, START + timedelta(days=9), SHORT, 0).stage == int(grows)


def test_a_refusal_pauses_and_takes_steps_back_once_a_day() -> None:
    ramp = warmup.turn(Ramp(3, START), START, SHORT, 0)
    for minute in (0, 5):
        now = START + timedelta(minutes=minute)
        ramp = warmup.observe(ramp, now, refused=True)
        assert ramp.stage == 1 and warmup.room(ramp, now, SHORT) == 0
    assert warmup.room(ramp, START + timedelta(minutes=64), SHORT) == 0
    later = START + timedelta(minutes=65)
    assert warmup.room(warmup.turn(ramp, later, SHORT, 0), later, SHORT) == 1
    # such a day earns nothing, and the next refusal costs again
    ramp = warmup.turn(warmup.take(ramp, 24), START + timedelta(days=1), SHORT, 0)
    assert ramp.stage == 1
    assert warmup.observe(ramp, START + timedelta(days=1), refused=True).stage == 0


def test_what_still_lies_in_the_queue_counts_for_the_hour_in_which_it_may_arrive() -> None:
    schedule = (100,)
    ramp = warmup.take(warmup.turn(Ramp(), START, schedule, 0), 10)
    now = START + timedelta(hours=1, minutes=59)
    ramp = warmup.turn(ramp, now, schedule, 7)
    assert warmup.room(ramp, now, schedule) == 3


def test_after_a_month_of_silence_it_begins_anew() -> None:
    ramp = warmup.turn(Ramp(3, START), START, SHORT, 0)
    assert warmup.turn(ramp, START + timedelta(days=30), SHORT, 0).stage == 3
    assert warmup.turn(ramp, START + timedelta(days=31), SHORT, 0).stage == 0


EVENTS = st.lists(
    st.tuples(
        st.integers(-120, 3000).map(lambda minutes: timedelta(minutes=minutes)),
        st.integers(0, 60),
        st.integers(0, 2),
        st.sampled_from([False, False, False, True]),
    ),
    max_size=120,
)


@settings(max_examples=300, deadline=None)
@given(EVENTS, st.integers(0, 5), st.integers(0, 30))
def test_whatever_happens_no_hour_and_no_day_has_more_than_its_cap(
    events: list[tuple[timedelta, int, int, bool]], stage: int, outstanding: int
) -> None:
    now, ramp = START, Ramp(stage, START)
    by_hour: Counter[datetime] = Counter()
    by_day: Counter[object] = Counter()
    for step, wanted, bounced, refused in events:
        # a clock that is put back by two hours at once is no clock: there the promise is only that mail goes on
        now = max(now + step, now - timedelta(minutes=50))
        before = ramp
        ramp = warmup.turn(ramp, now, SHORT, outstanding)
        assert ramp.stage <= before.stage + 1
        if ramp.hour.date() == before.hour.date():
            assert ramp.stage == before.stage
        if before.refused_on == before.hour.date():
            assert ramp.stage <= before.stage
        day = warmup.cap(ramp, SHORT)
        room = warmup.room(ramp, now, SHORT)
        if day is None or room is None:
            assert ramp.stage >= len(SHORT) and (room is None or ramp.paused_until)
            ramp = warmup.take(ramp, wanted if room is None else 0)
            # what went out without a cap is none of the caps' business
            by_hour.clear()
            by_day.clear()
        else:
            amount = min(wanted, room)
            ramp = warmup.take(ramp, amount)
            by_hour[ramp.hour] += amount
            by_day[ramp.hour.date()] += amount
            if amount:
                assert by_hour[ramp.hour] <= warmup.hourly(day)
                assert by_day[ramp.hour.date()] <= day
                assert ramp.paused_until is None or now >= ramp.paused_until
        if refused:
            ramp = warmup.observe(ramp, now, bounced, refused=True)
            assert warmup.room(ramp, now, SHORT) == 0
            assert ramp.stage >= 0
        else:
            ramp = warmup.observe(ramp, now, bounced)


def test_a_clock_that_is_put_back_a_little_gives_no_hour_twice() -> None:
    schedule, late = (100,), START + timedelta(hours=1, minutes=1)
    ramp = warmup.take(warmup.turn(Ramp(), late, schedule, 0), 1)
    ramp = warmup.turn(ramp, START + timedelta(minutes=59), schedule, 0)
    ramp = warmup.turn(ramp, late + timedelta(minutes=58), schedule, 0)
    assert warmup.room(ramp, late + timedelta(minutes=58), schedule) == 9


def test_a_clock_that_was_years_ahead_holds_nothing_up() -> None:
    ramp = warmup.turn(Ramp(), START + timedelta(days=1000), SHORT, 0)
    ramp = warmup.turn(warmup.take(ramp, 2), START, SHORT, 0)
    assert warmup.room(ramp, START + timedelta(minutes=59), SHORT) == 0
    later = START + timedelta(hours=1, minutes=59)
    assert warmup.room(warmup.turn(ramp, later, SHORT, 0), later, SHORT) == 2


@pytest.mark.parametrize(
    ("code", "detail"),
    [
        ("4.7.0", "host mx.x[192.0.2.1] refused to talk to me: 421 4.7.0 [TSS04] Messages from 192.0.2.9 deferred"),
        ("4.7.28", "421-4.7.28 Gmail has detected an unusual rate of mail from your IP address"),
        ("5.7.1", "550-5.7.1 [192.0.2.9 1] Our system has detected an unusual rate of unsolicited mail"),
        ("5.7.606", "550 5.7.606 Access denied, banned sending IP [192.0.2.9]"),
        ("4.7.650", "451 4.7.650 The mail server [192.0.2.9] has been temporarily rate limited due to IP reputation."),
        ("5.7.1", "554 5.7.1 Service unavailable; Client host [192.0.2.9] blocked using zen.spamhaus.org"),
        ("4.0.0", "421 RP-001 (BAY) Unfortunately, some messages from 192.0.2.9 were not sent"),
        ("4.7.1", "451 4.7.1 Received too many messages from a new or untrusted IP (G28)"),
        ("5.0.0", "550 part of their network is on our block list (S3140)"),
    ],
)  # fmt: skip
def test_a_refusal_for_reputation_is_known_as_one(code: str, detail: str) -> None:
    assert warmup.is_reputation(code, detail)


@pytest.mark.parametrize(
    ("code", "detail"),
    [
        ("5.1.1", "550 5.1.1 <x@y.example>: user unknown"),
        ("4.2.0", "451 4.2.0 <x@y.example>: Recipient address rejected: Greylisted, see http://postgrey.example/"),
        ("4.7.1", "450 4.7.1 Greylisted by filter, try again later"),
        ("5.0.0", "550 x@y.example... User unknown; not listed in Domino Directory"),
        ("5.2.2", "552 5.2.2 mailbox full"),
        ("4.2.1", "450 4.2.1 The user you are trying to contact is receiving mail too quickly: rate limited"),
        ("5.7.26", "550 5.7.26 This mail is unauthenticated"),
        ("5.7.509", "550 5.7.509 Access denied, sending domain does not pass DMARC verification"),
        ("5.7.1", "554 5.7.1 <x@y.example>: Relay access denied"),
        ("4.4.1", "connect to mx.y.example[192.0.2.1]:25: Connection timed out"),
    ],
)  # fmt: skip
def test_other_refusals_are_not(code: str, detail: str) -> None:
    assert not warmup.is_reputation(code, detail)


@pytest.mark.parametrize("given", [[], 5, "250", [0], [True], [5, 4], [1.5], ["9"], [1] * 367, [10**8]])
def test_what_is_no_schedule_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="write"):
        warmup.check_schedule(given)
    assert warmup.check_schedule(list(SCHEDULE)) == SCHEDULE
