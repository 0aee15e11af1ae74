"""Networks and plans at the desk, from the first network of an empty installation on."""

from __future__ import annotations

import hashlib
import io

import pytest
from PIL import Image

from portal import networks, operators
from portal.fields import Invalid
from portal.networks import Network, Plan
from portal.web import look
from tests.web.desk.offices import Browser, Office

PLACE = {"time_zone": "Europe/Berlin", "language": "de", "colour": "#1F5148"}
HOME = "/desk/networks/hotel-linde"
PLAN = {
    "name": "3 hours, 500 MB",
    "minutes": "3",
    "minutes_unit": "hours",
    "clock": "wall",
    "megabytes": "500",
    "megabytes_unit": "MB",
    "counts": "both",
    "devices": "2",
    "period": "",
}


def found(office: Office, slug: str = "hotel-linde") -> Network:
    with office.store.read() as db:
        network = networks.by_slug(db, slug)
    assert network is not None
    return network


def plans(office: Office) -> list[Plan]:
    with office.store.read() as db:
        return networks.plans(db, found(office).id, retired=True)


def picture(width: int, height: int, *, noise: bool = False) -> tuple[io.BytesIO, str]:
    image = Image.new("RGB", (width, height), "#8c3b1f")
    if noise:
        image = Image.frombytes("RGB", (width, height), hashlib.shake_256(b"noise").digest(width * height * 3))
    out = io.BytesIO()
    image.save(out, "PNG")
    out.seek(0)
    return out, "logo.png"


def test_an_empty_installation_says_where_to_begin(ana: Browser) -> None:
    page = ana.opens("/desk/")
    assert "Create your network" in page
    assert 'href="/desk/new-network"' in page.html


def test_a_network_is_made_from_its_name_and_gets_a_short_one(office: Office, ana: Browser) -> None:
    page = ana.fills_in("/desk/new-network", {"name": "Hôtel  Linde", "terms": "Be kind.", **PLACE})
    assert "Hôtel Linde is made" in page
    network = found(office)
    assert (network.name, network.time_zone, network.colour) == ("Hôtel Linde", "Europe/Berlin", "#1f5148")
    assert network.terms == "Be kind."
    with office.store.read() as db:
        assert operators.record(db, [network.id])[0].action == "network.add"


def test_everything_wrong_with_a_form_is_told_at_once_and_what_was_typed_stays(office: Office, ana: Browser) -> None:
    form = {
        "name": "",
        "slug": "Not a slug!",
        "time_zone": "Mars/Base",
        "language": "de",
        "colour": "red",
        "support": "Dial 9",
    }
    page = ana.fills_in("/desk/new-network", form)
    assert page.status == 400
    assert "4 fields need another look" in page
    assert "Expected a colour such as #24463f" in page
    assert 'value="Dial 9"' in page.html
    with office.store.read() as db:
        assert networks.listed(db) == []


def test_a_short_name_that_is_taken_is_told_beside_it(ana: Browser, linde: Network) -> None:
    page = ana.fills_in("/desk/new-network", {"name": "Other", "slug": linde.slug, **PLACE})
    assert page.status == 400
    assert "Is taken by another network" in page


@pytest.mark.usefixtures("linde")
def test_the_owner_of_several_networks_sees_them_all_and_moves_between_them(office: Office, ana: Browser) -> None:
    office.network("mirador", "Café Mirador")
    page = ana.opens("/desk/")
    assert "Hotel Linde" in page
    assert "Café Mirador" in page
    assert 'href="/desk/networks/mirador/"' in ana.opens(f"{HOME}/").html


def test_whoever_works_in_one_network_is_led_straight_there(office: Office, linde: Network) -> None:
    browser = office.browser(office.operator("ben@linde.example", operators.Role.DESK, linde))
    assert browser.gets("/desk/").location == f"{HOME}/"


@pytest.mark.usefixtures("linde")
def test_a_network_that_is_called_like_an_answer_gives_none(ana: Browser) -> None:
    form = {"name": "Auth: 1 Pong", **PLACE, "vouchers": "yes", "click_plan": ""}
    ana.fills_in(f"{HOME}/splash", form)
    for path in ("/desk/", f"{HOME}/", f"{HOME}/splash", f"{HOME}/audit"):
        page = ana.opens(path)
        assert "Auth: 1 Pong" in page
        assert "Auth: " not in page.html
        assert "Pong" not in page.html


# The splash page


@pytest.mark.usefixtures("linde")
def test_a_change_of_the_terms_makes_the_next_version_and_nothing_else_does(office: Office, ana: Browser) -> None:
    form = {"name": "Hotel Linde", **PLACE, "terms": "Be kind.", "vouchers": "yes", "click_plan": ""}
    ana.fills_in(f"{HOME}/splash", form)
    first = found(office).terms_version
    ana.fills_in(f"{HOME}/splash", {**form, "support": "Dial 9"})
    assert found(office).terms_version == first
    ana.fills_in(f"{HOME}/splash", {**form, "terms": "Be kind, and quiet."})
    assert found(office).terms_version == first + 1
    assert found(office).support == ""


def test_the_terms_that_a_network_is_made_with_are_its_first_version(office: Office, ana: Browser) -> None:
    ana.fills_in("/desk/new-network", {"name": "Hotel Linde", **PLACE, "terms": "Be kind."})
    assert (found(office).terms, found(office).terms_version) == ("Be kind.", 1)
    assert "Version 1 in force Be kind." in ana.opens(f"{HOME}/terms/1")
    with office.store.transaction() as db, pytest.raises(Invalid):
        networks.add(db, "other", "Other", office.now(), terms="x" * 40_001)


@pytest.mark.usefixtures("linde")
def test_what_a_guest_accepted_can_be_read_after_it_was_replaced(office: Office, ana: Browser) -> None:
    form = {"name": "Hotel Linde", **PLACE, "vouchers": "yes", "click_plan": ""}
    for terms in ("Be kind.\n\nBe <b>quiet</b>.", "Be kind."):
        ana.fills_in(f"{HOME}/splash", {**form, "terms": terms})
    last = found(office).terms_version
    assert f"Version {last} in force Be kind." in ana.opens(f"{HOME}/terms/{last}")
    page = ana.opens(f"{HOME}/terms/{last - 1}")
    assert f"Version {last - 1} replaced " in page
    assert "Be kind. Be <b>quiet</b>." in page
    assert "had no terms of its own" in ana.opens(f"{HOME}/terms/1")
    for none in (0, last + 1, 10**30):
        assert ana.gets(f"{HOME}/terms/{none}").status == 404


def test_a_time_zone_by_a_name_that_is_not_offered_stays_the_chosen_one(office: Office, ana: Browser) -> None:
    office.network("etc", "At sea", time_zone="Etc/GMT+3")
    assert '<option value="Etc/GMT+3" selected>' in ana.opens("/desk/networks/etc/splash").html
    page = ana.opens("/desk/new-network").html
    assert '<option value="UTC" selected>' in page
    for name in ("Europe/Berlin", "Asia/Kolkata", "America/Argentina/Buenos_Aires"):
        assert f'<option value="{name}">' in page
    for alias in ("Etc/", "Asia/Calcutta", "America/Buenos_Aires", "Europe/Belfast"):
        assert f'<option value="{alias}' not in page
    office.network("old", "In Calcutta", time_zone="Asia/Calcutta")
    assert '<option value="Asia/Calcutta" selected>' in ana.opens("/desk/networks/old/splash").html


def test_the_ways_in_are_opened_and_closed(office: Office, ana: Browser, linde: Network) -> None:
    plan = office.plan(linde, "An hour", minutes=60)
    form = {"name": "Hotel Linde", **PLACE, "accounts": "yes", "click_plan": str(plan.id)}
    ana.fills_in(f"{HOME}/splash", form)
    network = found(office)
    assert (network.vouchers, network.accounts, network.click_plan_id) == (False, True, plan.id)
    page = ana.opens(f"{HOME}/splash")
    assert f'value="{plan.id}" selected' in page.html


@pytest.mark.usefixtures("linde")
def test_another_networks_plan_cannot_be_what_a_click_gives(office: Office, ana: Browser) -> None:
    other = office.network("mirador", "Café Mirador")
    plan = office.plan(other, "An hour", minutes=60)
    page = ana.fills_in(f"{HOME}/splash", {"name": "Hotel Linde", **PLACE, "click_plan": str(plan.id)})
    assert page.status == 400
    assert found(office).click_plan_id is None


@pytest.mark.usefixtures("linde")
def test_a_logo_is_drawn_anew_before_anybody_sees_it(office: Office, ana: Browser) -> None:
    ana.fills_in(f"{HOME}/splash", {"name": "Hotel Linde", **PLACE, "logo": picture(2_000, 500)})
    network = found(office)
    assert network.logo_mark is not None
    with office.store.read() as db:
        png = networks.logo(db, network.id)
    assert png is not None
    assert Image.open(io.BytesIO(png)).size == (512, 128)
    page = ana.opens(f"{HOME}/splash")
    assert look.logo_name(network.id, network.logo_mark) in page.html
    assert ana.gets(look.logo_name(network.id, network.logo_mark)).status == 200
    ana.sends(f"{HOME}/splash", {"name": "Hotel Linde", **PLACE, "no_logo": "yes"})
    assert found(office).logo_mark is None


@pytest.mark.usefixtures("linde")
def test_even_a_photograph_makes_a_logo(office: Office, ana: Browser) -> None:
    ana.fills_in(f"{HOME}/splash", {"name": "Hotel Linde", **PLACE, "logo": picture(300, 300, noise=True)})
    assert found(office).logo_mark is not None


@pytest.mark.parametrize(
    ("upload", "told"),
    [
        ((io.BytesIO(b"<svg onload=alert(1)>"), "logo.svg"), "picture"),
        ((io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"junk" * 100), "logo.png"), "picture"),
    ],
)
@pytest.mark.usefixtures("linde")
def test_a_logo_that_cannot_be_used_is_refused_in_words(
    office: Office, ana: Browser, upload: tuple[io.BytesIO, str], told: str
) -> None:
    page = ana.fills_in(f"{HOME}/splash", {"name": "Renamed", **PLACE, "logo": upload})
    assert page.status == 400
    assert told in page
    assert found(office).name == "Hotel Linde"


# Plans


@pytest.mark.usefixtures("linde")
def test_a_plan_is_made_with_its_limits_and_said_in_words(office: Office, ana: Browser) -> None:
    assert "on the list" in ana.fills_in(f"{HOME}/plans/new", {**PLAN, "valid_days": "4", "valid_days_unit": "weeks"})
    plan = plans(office)[0]
    assert (plan.seconds, plan.bytes, plan.devices) == (3 * 3600, 500_000_000, 2)
    assert plan.valid_seconds == 28 * 86_400
    assert "3 h, 500 MB, 2 devices; to be used within 28 days" in ana.opens(f"{HOME}/plans")


@pytest.mark.usefixtures("linde")
def test_fractions_and_gigabytes_come_out_to_the_byte(office: Office, ana: Browser) -> None:
    form = {**PLAN, "minutes": "1.5", "megabytes": "1.25", "megabytes_unit": "GB"}
    ana.fills_in(f"{HOME}/plans/new", form)
    plan = plans(office)[0]
    assert (plan.seconds, plan.bytes) == (5_400, 1_250_000_000)


@pytest.mark.usefixtures("linde")
def test_a_daily_allowance_by_time_online_and_downloads_only(office: Office, ana: Browser) -> None:
    form = {
        **PLAN,
        "minutes": "",
        "megabytes": "",
        "clock": "online",
        "counts": "down",
        "devices": "",
        "period": "day",
        "period_minutes": "90",
        "period_minutes_unit": "minutes",
        "period_megabytes": "2",
        "period_megabytes_unit": "GB",
        "idle_minutes": "20",
        "idle_minutes_unit": "minutes",
        "cooldown_minutes": "1",
        "cooldown_minutes_unit": "days",
    }
    ana.fills_in(f"{HOME}/plans/new", form)
    plan = plans(office)[0]
    assert (plan.clock, plan.counts, plan.devices, plan.period) == ("online", "down", None, "day")
    assert (plan.period_seconds, plan.period_bytes) == (5_400, 2_000_000_000)
    assert (plan.idle_seconds, plan.cooldown_seconds) == (1_200, 86_400)


@pytest.mark.usefixtures("linde")
def test_a_plan_opens_for_editing_as_it_was_typed(ana: Browser, office: Office) -> None:
    ana.fills_in(f"{HOME}/plans/new", {**PLAN, "megabytes": "1.5", "megabytes_unit": "GB"})
    plan = plans(office)[0]
    page = ana.opens(f"{HOME}/plans/{plan.id}")
    assert 'name="minutes" inputmode="decimal" autocomplete="off" value="3"' in page.html
    assert "<option selected>hours</option>" in page.html
    assert 'value="1500"' in page.html
    ana.sends(f"{HOME}/plans/{plan.id}", {**PLAN, "minutes": "4", "name": "4 hours"})
    assert (plans(office)[0].name, plans(office)[0].seconds) == ("4 hours", 4 * 3600)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": ""}, "Must not be empty"),
        ({"minutes": "soon"}, "A number such as 90 or 1.5"),
        ({"megabytes": "0"}, "More than 0"),
        ({"devices": "-1"}, "Expected a whole number"),
        ({"period": "day"}, "Give minutes or megabytes for each day"),
        ({"period_megabytes": "5", "period_megabytes_unit": "GB"}, "Expected day, week or month"),
        ({"minutes_unit": "fortnights"}, "A number such as 90 or 1.5"),
    ],
)
@pytest.mark.usefixtures("linde")
def test_a_plan_that_makes_no_sense_is_refused_in_words(
    office: Office, ana: Browser, change: dict[str, str], told: str
) -> None:
    page = ana.fills_in(f"{HOME}/plans/new", {**PLAN, **change})
    assert page.status == 400
    assert told in page
    assert plans(office) == []


def test_a_name_that_another_plan_has_is_refused(office: Office, ana: Browser, linde: Network) -> None:
    office.plan(linde, PLAN["name"])
    assert "Another plan of this network has this name" in ana.fills_in(f"{HOME}/plans/new", PLAN)


def test_a_plan_is_retired_only_when_that_was_asked_and_answered(office: Office, ana: Browser, linde: Network) -> None:
    plan = office.plan(linde, "An hour", minutes=60)
    asked = ana.opens(f"{HOME}/plans/{plan.id}/retire")
    assert "Codes and accounts that have it keep it" in asked
    assert plans(office)[0].retired_at is None
    assert "no longer offered" in ana.sends(f"{HOME}/plans/{plan.id}/retire")
    assert plans(office)[0].retired_at is not None
    assert ana.gets(f"{HOME}/plans/{plan.id}").status == 404
