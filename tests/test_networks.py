"""Networks and plans as an operator sets them up, on PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import gevent
import pytest
from sqlalchemy import Connection

from portal import grants, networks
from portal.fields import Invalid
from portal.store import Store

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


@pytest.fixture
def linde(db: Connection) -> networks.Network:
    return networks.add(db, "linde", "Café Linde", NOW, time_zone="Europe/Berlin", language="de")


def test_a_new_network_takes_vouchers_and_can_be_found_again(db: Connection, linde: networks.Network) -> None:
    assert (linde.vouchers, linde.accounts, linde.click_plan_id, linde.terms_version) == (True, False, None, 1)
    assert networks.get(db, linde.id) == networks.by_slug(db, "linde") == linde
    assert networks.by_slug(db, "other") is None


def test_two_networks_cannot_have_one_short_name(db: Connection, linde: networks.Network) -> None:
    with pytest.raises(Invalid, match="^slug: is taken"):
        networks.add(db, "linde", "Another", NOW)
    assert networks.listed(db) == [linde]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"slug": "Linde"}, "slug"),
        ({"slug": "-linde"}, "slug"),
        ({"slug": "l" * 41}, "slug"),
        ({"name": " "}, "name"),
        ({"time_zone": "Berlin"}, "time_zone"),
        ({"language": "xx"}, "language"),
        ({"colour": "green"}, "colour"),
    ],
)
def test_a_network_with_something_wrong_is_refused_by_its_field(
    db: Connection, wrong: dict[str, Any], field: str
) -> None:
    with pytest.raises(Invalid) as refused:
        networks.add(db, **{"slug": "linde", "name": "Linde", "now": NOW, **wrong})
    assert refused.value.field == field
    assert networks.listed(db) == []


def test_terms_that_change_get_the_next_number_and_others_keep_theirs(db: Connection, linde: networks.Network) -> None:
    assert networks.edit(db, linde.id, terms="Be kind.").terms_version == 2
    assert networks.edit(db, linde.id, terms="Be kind.\r\n").terms_version == 2
    assert networks.edit(db, linde.id, name="Linde am See").terms_version == 2
    assert networks.edit(db, linde.id, terms="Be kind, and share.").terms_version == 3


def test_the_words_of_every_version_are_kept(db: Connection, linde: networks.Network) -> None:
    for terms in ("Be kind.", "Be kind.", "", "Be kind."):
        networks.edit(db, linde.id, terms=terms, name="Linde am See")
    found = [networks.wording(db, linde.id, version) for version in range(6)]
    assert [wording and wording.terms for wording in found] == [None, "", "Be kind.", "", "Be kind.", None]
    assert [wording is not None and wording.replaced_at is not None for wording in found] == [
        False, True, True, True, False, False,
    ]  # fmt: skip


def test_of_two_changes_at_once_neither_loses_the_others_words(store: Store) -> None:
    with store.transaction() as db:
        network = networks.add(db, "linde", "Linde", NOW)

    def change(terms: str) -> None:
        with store.transaction() as db:
            networks.edit(db, network.id, terms=terms)
            gevent.sleep(0.05)

    gevent.joinall([gevent.spawn(change, terms) for terms in ("Be kind.", "Be quiet.")], raise_error=True)
    with store.read() as db:
        kept = [networks.wording(db, network.id, version) for version in (1, 2, 3)]
    assert {wording and wording.terms for wording in kept} == {"", "Be kind.", "Be quiet."}


def test_an_edit_changes_what_it_names_and_nothing_else(db: Connection, linde: networks.Network) -> None:
    networks.edit(db, linde.id, colour="#1F5148", support="Ask at the bar.", accounts=True)
    edited = networks.edit(db, linde.id, vouchers=False)
    assert (edited.colour, edited.support) == ("#1f5148", "Ask at the bar.")
    assert (edited.accounts, edited.vouchers) == (True, False)
    assert (edited.name, edited.time_zone, edited.language) == ("Café Linde", "Europe/Berlin", "de")


def test_an_edit_of_a_network_that_is_gone_says_so(db: Connection) -> None:
    with pytest.raises(Invalid, match="no such network"):
        networks.edit(db, 4711, name="x")


def test_a_logo_is_a_small_png_and_changes_its_mark(db: Connection, linde: networks.Network) -> None:
    assert linde.logo_mark is None
    networks.set_logo(db, linde.id, networks.PNG + b"one")
    first = networks.get(db, linde.id)
    networks.set_logo(db, linde.id, networks.PNG + b"two")
    second = networks.get(db, linde.id)
    assert first is not None
    assert second is not None
    assert first.logo_mark != second.logo_mark
    assert networks.logo(db, linde.id) == networks.PNG + b"two"
    for wrong in (b"<svg/>", networks.PNG + bytes(networks.LARGEST_LOGO)):
        with pytest.raises(Invalid, match="16 KiB"):
            networks.set_logo(db, linde.id, wrong)
    networks.set_logo(db, linde.id, None)
    assert networks.logo(db, linde.id) is None


def test_networks_are_listed_by_name_and_only_those_asked_for(db: Connection, linde: networks.Network) -> None:
    ana = networks.add(db, "ana", "ana's", NOW)
    networks.add(db, "zoo", "Zoo", NOW)
    assert [network.slug for network in networks.listed(db)] == ["ana", "linde", "zoo"]
    assert networks.listed(db, only=[linde.id, ana.id]) == [ana, linde]
    assert networks.listed(db, only=[]) == []


def test_a_plan_is_typed_in_minutes_and_megabytes_and_kept_in_seconds_and_bytes(
    db: Connection, linde: networks.Network
) -> None:
    terms = networks.terms(
        "Day pass", minutes="1440", megabytes="500", devices="2", valid_days="30", idle_minutes="15",
        period="day", period_minutes="120", period_megabytes="0.5", clock="online", counts="down",
    )  # fmt: skip
    plan = networks.add_plan(db, linde.id, terms, NOW)
    assert (plan.seconds, plan.bytes, plan.devices) == (86_400, 500_000_000, 2)
    assert (plan.valid_seconds, plan.idle_seconds) == (2_592_000, 900)
    assert (plan.period, plan.period_seconds, plan.period_bytes) == ("day", 7_200, 500_000)
    assert (plan.clock, plan.counts) == ("online", "down")
    assert networks.plan(db, linde.id, plan.id) == networks.plan_named(db, linde.id, "Day pass") == plan


def test_a_plan_without_limits_is_a_plan(db: Connection, linde: networks.Network) -> None:
    plan = networks.add_plan(db, linde.id, networks.terms("Free", devices=""), NOW)
    assert (plan.seconds, plan.bytes, plan.devices, plan.period) == (None, None, None, None)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"name": ""}, "name"),
        ({"minutes": "0"}, "minutes"),
        ({"megabytes": "lots"}, "megabytes"),
        ({"devices": "0"}, "devices"),
        ({"clock": "sun"}, "clock"),
        ({"counts": "neither"}, "counts"),
        ({"valid_days": "x"}, "valid_days"),
        ({"period": "year", "period_minutes": "1"}, "period"),
        ({"period": "day"}, "period"),
        ({"period_megabytes": "5"}, "period"),
    ],
)
def test_terms_with_something_wrong_are_refused_by_their_field(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        networks.terms(**{"name": "Plan", **wrong})
    assert refused.value.field == field


def test_two_plans_of_a_network_cannot_have_one_name(db: Connection, linde: networks.Network) -> None:
    networks.add_plan(db, linde.id, networks.terms("Day"), NOW)
    other = networks.add_plan(db, linde.id, networks.terms("Week"), NOW)
    with pytest.raises(Invalid, match="^name"):
        networks.add_plan(db, linde.id, networks.terms("Day"), NOW)
    with pytest.raises(Invalid, match="^name"):
        networks.edit_plan(db, linde.id, other.id, networks.terms("Day"))
    ana = networks.add(db, "ana", "ana's", NOW)
    assert networks.add_plan(db, ana.id, networks.terms("Day"), NOW).name == "Day"


def test_an_edited_plan_changes_what_will_be_sold_and_nothing_that_was(db: Connection, linde: networks.Network) -> None:
    plan = networks.add_plan(db, linde.id, networks.terms("Day", minutes=60), NOW)
    sold = grants.make(db, plan, "voucher", NOW)[0]
    edited = networks.edit_plan(db, linde.id, plan.id, networks.terms("Day", minutes=30))
    assert edited.seconds == 1800
    assert grants.load(db, sold, NOW).seconds == 3600
    assert grants.load(db, grants.make(db, edited, "voucher", NOW)[0], NOW).seconds == 1800


def test_a_plan_of_another_network_cannot_be_read_edited_or_given_for_a_click(
    db: Connection, linde: networks.Network
) -> None:
    ana = networks.add(db, "ana", "ana's", NOW)
    theirs = networks.add_plan(db, ana.id, networks.terms("Day"), NOW)
    assert networks.plan(db, linde.id, theirs.id) is None
    with pytest.raises(Invalid):
        networks.edit_plan(db, linde.id, theirs.id, networks.terms("Mine"))
    with pytest.raises(Invalid):
        networks.set_click_plan(db, linde.id, theirs.id)
    networks.retire_plan(db, linde.id, theirs.id, NOW)
    assert networks.plan(db, ana.id, theirs.id) == theirs


def test_a_retired_plan_is_not_sold_any_more_and_ends_the_click_through_that_gave_it(
    db: Connection, linde: networks.Network
) -> None:
    plan = networks.add_plan(db, linde.id, networks.terms("Hour", minutes=60), NOW)
    networks.set_click_plan(db, linde.id, plan.id)
    assert [network.click_plan_id for network in networks.listed(db)] == [plan.id]
    networks.retire_plan(db, linde.id, plan.id, NOW)
    assert networks.plans(db, linde.id) == []
    assert [kept.retired_at for kept in networks.plans(db, linde.id, retired=True)] == [NOW]
    assert networks.plan_named(db, linde.id, "Hour") is None
    assert [network.click_plan_id for network in networks.listed(db)] == [None]
    with pytest.raises(Invalid):
        networks.set_click_plan(db, linde.id, plan.id)


def test_a_click_through_can_be_taken_back(db: Connection, linde: networks.Network) -> None:
    plan = networks.add_plan(db, linde.id, networks.terms("Hour", minutes=60), NOW)
    networks.set_click_plan(db, linde.id, plan.id)
    networks.set_click_plan(db, linde.id, None)
    assert [network.click_plan_id for network in networks.listed(db)] == [None]
