"""The people who run networks: how the first one gets in, how nobody else does, and the record of what they do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import gevent
import gevent.event
import pytest
from sqlalchemy import Connection

from portal import networks, operators
from portal.fields import Invalid
from portal.offload import Busy
from portal.operators import Operator, Role, SignInRefused
from portal.store import Store, Unavailable, sql

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
GOOD = "violet tram sings at noon"
HOUR = timedelta(hours=1)


def hashed(password: str) -> str:
    return f"hash of {password}"


def verify(stored: str | None, password: str) -> bool:
    return stored == hashed(password)


def current_already(_stored: str, _password: str) -> None:
    """A hash of today's parameters."""


def never(_stored: str | None, _password: str) -> bool:
    raise AssertionError("the password was looked at")


class Office:
    """An installation with one operator, who has a password."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.looked_at = 0
        self.renew: Callable[[str, str], str | None] = current_already
        with store.transaction() as db:
            token = operators.setup_link(db, NOW)
            assert token is not None
            self.ana = operators.use_setup(db, token, "ana@hotel.example", "Ana", hashed(GOOD), NOW)

    def verify(self, stored: str | None, password: str) -> bool:
        self.looked_at += 1
        return verify(stored, password)

    def signs_in(
        self, password: str = GOOD, email: str = "ana@hotel.example", at: datetime = NOW, *, known: bool = False
    ) -> tuple[str, Operator]:
        return operators.sign_in(self.store, email, password, verify=self.verify, renew=self.renew, now=at, known=known)

    def refused(self, password: str = GOOD, at: datetime = NOW, **options: object) -> int | None:
        with pytest.raises(SignInRefused) as refused:
            self.signs_in(password, at=at, **options)  # type: ignore[arg-type]
        return refused.value.retry_seconds

    def current(self, secret: str, at: datetime = NOW) -> Operator | None:
        with self.store.transaction() as db:
            found = operators.current(db, secret, at)
        return None if found is None else found.operator

    def changes(self, work: Callable[[Connection], object]) -> None:
        with self.store.transaction() as db:
            work(db)


@pytest.fixture
def office(store: Store) -> Office:
    return Office(store)


# The first operator


def test_an_empty_installation_gives_a_link_that_makes_its_first_operator_once(db: Connection) -> None:
    token = operators.setup_link(db, NOW)
    assert token is not None
    link = operators.invitation(db, token, NOW)
    assert link is not None
    assert (link.purpose, link.operator_id) == ("setup", None)
    ana = operators.use_setup(db, token, " ana@hotel.example ", "Ana", "hash", NOW)
    assert ana.everywhere(Role.OWNER)
    assert not ana.invited
    assert operators.setup_link(db, NOW) is None
    assert operators.invitation(db, token, NOW) is None
    with pytest.raises(Invalid, match="^link"):
        operators.use_setup(db, token, "eve@evil.example", "Eve", "hash", NOW)
    assert [operator.email for operator in operators.listed(db)] == ["ana@hotel.example"]


def test_each_start_makes_a_new_link_and_ends_the_old_one(db: Connection) -> None:
    first, second = operators.setup_link(db, NOW), operators.setup_link(db, NOW)
    assert first is not None
    assert second is not None
    assert operators.invitation(db, first, NOW) is None
    assert operators.invitation(db, second, NOW) is not None


def test_the_first_link_is_good_for_a_day(db: Connection) -> None:
    token = operators.setup_link(db, NOW)
    assert token is not None
    assert operators.invitation(db, token, NOW + 23 * HOUR) is not None
    assert operators.invitation(db, token, NOW + 24 * HOUR) is None
    with pytest.raises(Invalid):
        operators.use_setup(db, token, "ana@hotel.example", "", "hash", NOW + 24 * HOUR)


def test_of_two_who_use_the_first_link_at_once_one_becomes_operator(store: Store) -> None:
    with store.transaction() as db:
        token = operators.setup_link(db, NOW)
    assert token is not None
    link, refused = token, []

    def use(email: str) -> None:
        try:
            with store.transaction() as db:
                operators.use_setup(db, link, email, "", "hash", NOW)
        except Invalid:
            refused.append(email)

    gevent.joinall([gevent.spawn(use, f"{name}@hotel.example") for name in ("ana", "bea", "eve")], raise_error=True)
    with store.read() as db:
        assert len(operators.listed(db)) == 1
    assert len(refused) == 2


def test_no_secret_of_a_link_or_a_browser_stands_in_the_database(office: Office) -> None:
    secret, _ = office.signs_in()
    with office.store.transaction() as db:
        _, token = operators.add(db, "bea@hotel.example", Role.DESK, None, NOW)
        rows = db.execute(
            sql(
                "test.secrets",
                "SELECT CAST(i.* AS text) FROM invitation i UNION ALL SELECT CAST(b.* AS text) FROM browser_session b",
            )
        ).scalars()
        everything = " ".join(rows)
    for hidden in (secret, token):
        assert hidden not in everything
        assert hidden.encode().hex() not in everything


# Roles


def test_a_role_counts_in_its_network_or_everywhere(db: Connection) -> None:
    linde, zoo = (networks.add(db, slug, slug, NOW) for slug in ("linde", "zoo"))
    bea, _ = operators.add(db, "bea@hotel.example", Role.MANAGER, linde.id, NOW)
    assert bea.role_in(linde.id) is Role.MANAGER
    assert bea.may(Role.DESK, linde.id)
    assert not bea.may(Role.OWNER, linde.id)
    assert bea.role_in(zoo.id) is None
    assert not bea.may(Role.DESK, zoo.id)
    assert bea.networks() == {linde.id}
    assert not bea.everywhere(Role.DESK)
    head, _ = operators.add(db, "head@hotel.example", Role.OWNER, None, NOW)
    assert head.may(Role.OWNER, zoo.id)
    assert head.networks() is None
    assert [operator.email for operator in operators.listed(db, zoo.id)] == ["head@hotel.example"]


def test_of_two_roles_in_a_network_the_stronger_counts(db: Connection) -> None:
    linde = networks.add(db, "linde", "Linde", NOW)
    bea, _ = operators.add(db, "bea@hotel.example", Role.DESK, None, NOW)
    operators.add(db, "head@hotel.example", Role.OWNER, None, NOW)
    operators.set_role(db, bea, Role.OWNER, linde.id)
    bea = operators.by_email(db, "BEA@hotel.example") or bea
    assert bea.role_in(linde.id) is Role.OWNER
    operators.set_role(db, bea, None, linde.id)
    bea = operators.get(db, bea.id) or bea
    assert bea.role_in(linde.id) is Role.DESK


def test_somebody_always_owns_everything(office: Office) -> None:
    with pytest.raises(Invalid, match="somebody must remain"):
        office.changes(lambda db: operators.set_role(db, office.ana, Role.DESK, None))
    with pytest.raises(Invalid, match="somebody must remain"):
        office.changes(lambda db: operators.disable(db, office.ana, NOW))
    office.changes(lambda db: operators.add(db, "head@hotel.example", Role.OWNER, None, NOW))
    office.changes(lambda db: operators.disable(db, office.ana, NOW))
    assert office.refused() == 0


def test_an_address_is_one_operators(office: Office) -> None:
    with pytest.raises(Invalid, match="^email: is an operator's already"):
        office.changes(lambda db: operators.add(db, "ANA@hotel.example", Role.DESK, None, NOW))


# Invitations


def test_an_invited_operator_chooses_a_password_once_and_signs_in_with_it(office: Office) -> None:
    with office.store.transaction() as db:
        bea, token = operators.add(db, "bea@hotel.example", Role.DESK, None, NOW)
        assert bea.invited
        link = operators.invitation(db, token, NOW)
        assert link is not None
        assert (link.purpose, link.email) == ("password", "bea@hotel.example")
    assert office.refused(email="bea@hotel.example") == 0
    office.changes(lambda db: operators.use_invitation(db, token, hashed(GOOD), NOW))
    assert office.signs_in(email="Bea@Hotel.example")[1].email == "bea@hotel.example"
    with pytest.raises(Invalid, match="^link"):
        office.changes(lambda db: operators.use_invitation(db, token, hashed("x"), NOW))


def test_a_link_for_a_new_password_ends_the_older_one_and_works_for_a_week(office: Office) -> None:
    with office.store.transaction() as db:
        first = operators.invite_again(db, office.ana, NOW)
        second = operators.invite_again(db, office.ana, NOW)
        assert operators.invitation(db, first, NOW) is None
        assert operators.invitation(db, second, NOW + timedelta(days=6)) is not None
        assert operators.invitation(db, second, NOW + timedelta(days=7)) is None


def test_a_link_of_one_kind_does_not_work_as_the_other(office: Office) -> None:
    with office.store.transaction() as db:
        token = operators.invite_again(db, office.ana, NOW)
        with pytest.raises(Invalid):
            operators.use_setup(db, token, "eve@evil.example", "", "hash", NOW)
        assert operators.invitation(db, token, NOW) is not None


def test_a_stopped_operators_link_does_not_work(office: Office) -> None:
    with office.store.transaction() as db:
        bea, token = operators.add(db, "bea@hotel.example", Role.DESK, None, NOW)
        operators.disable(db, bea, NOW)
        assert operators.invitation(db, token, NOW) is None
        with pytest.raises(Invalid):
            operators.use_invitation(db, token, "hash", NOW)


# Passwords


@pytest.mark.parametrize(
    "password",
    [GOOD, "x9$Lq2!vR7wZp4#", "Łódź — mała żółta krowa", "the cat sat on a cold stone", "839201746553820"],
)  # fmt: skip
def test_long_passwords_of_any_kind_are_taken(password: str) -> None:
    assert operators.check_password(password, "ana@hotel.example")


def test_256_characters_are_taken_and_more_are_not() -> None:
    long = (GOOD + " 42 ") * 9
    assert operators.check_password(long[:256])
    with pytest.raises(Invalid, match="15 to 256"):
        operators.check_password(long[:257])


@pytest.mark.parametrize("password", ["", "short", "x9$Lq2!vR7wZp4"])
def test_short_passwords_are_not_taken(password: str) -> None:
    with pytest.raises(Invalid, match="^password: expected 15 to 256"):
        operators.check_password(password)


@pytest.mark.parametrize(
    "password",
    ["aaaaaaaaaaaaaaaaaaaa", "abcabcabcabcabcabc", "123456789012345", "qwertyuiopasdfgh", "passwordpassword",
     "P@ssw0rdP@ssw0rd!", "gatepost-gatepost", "abcdefghijklmnop", "9876543210987654", "administrator12345",
     "ana@hotel.example", "hotel hotel hotel", "correct horse battery staple", "letmein letmein 1"],
)  # fmt: skip
def test_the_obvious_is_not_taken(password: str) -> None:
    with pytest.raises(Invalid, match="^password: is too easy to guess"):
        operators.check_password(password, "ana@hotel.example")


def test_a_password_typed_on_another_keyboard_is_the_same() -> None:
    assert operators.check_password("cafe\u0301 sings at noon, twice") == operators.check_password(
        "caf\u00e9 sings at noon, twice"
    )


# Signing in


def test_an_operator_who_signs_in_is_known_until_he_signs_out(office: Office) -> None:
    secret, ana = office.signs_in()
    assert ana == office.ana
    assert office.current(secret) == ana
    assert office.current(secret + "x") is None
    office.changes(lambda db: operators.sign_out(db, secret))
    assert office.current(secret) is None


def test_a_session_ends_after_a_week_or_after_half_a_day_without_a_page(office: Office) -> None:
    secret, _ = office.signs_in()
    assert office.current(secret, NOW + 12 * HOUR) is None
    moment = NOW
    while moment < NOW + timedelta(days=7) - 11 * HOUR:
        moment += 11 * HOUR
        assert office.current(secret, moment) is not None
    assert office.current(secret, NOW + timedelta(days=7)) is None


def test_wrong_address_wrong_password_and_stopped_account_look_alike(office: Office) -> None:
    with office.store.transaction() as db:
        bea, token = operators.add(db, "bea@hotel.example", Role.OWNER, None, NOW)
        operators.use_invitation(db, token, hashed(GOOD), NOW)
        operators.disable(db, bea, NOW)
    assert office.refused("wrong") == 0
    assert office.refused(email="nobody@hotel.example") == 0
    assert office.refused(email="bea@hotel.example") == 0
    assert office.looked_at == 3


def test_unknown_addresses_are_slowed_and_stopped_like_known_ones(office: Office) -> None:
    def told(email: str) -> list[int | None]:
        return [office.refused("wrong", NOW + timedelta(seconds=number), email=email) for number in range(20)]

    assert told("nobody@hotel.example") == told("ana@hotel.example")


def test_tries_are_slowed_after_the_third(office: Office) -> None:
    assert [office.refused("wrong") for _ in range(3)] == [0, 0, 0]
    assert office.refused("wrong") == 1
    assert office.refused("wrong", NOW + timedelta(seconds=1)) == 0
    assert office.refused("wrong", NOW + timedelta(seconds=1)) == 2
    assert office.looked_at == 4


def test_ten_tries_in_a_quarter_of_an_hour_are_looked_at(office: Office) -> None:
    for second in range(0, 15 * 60, 5):
        office.refused("wrong", NOW + timedelta(seconds=second))
    assert 10 <= office.looked_at <= 20
    assert office.refused(at=NOW + timedelta(seconds=900)) not in (0, None)
    office.signs_in(at=NOW + 2 * HOUR)


def test_a_right_password_forgives_the_wrong_ones(office: Office) -> None:
    for _ in range(3):
        office.refused("wrong")
    office.signs_in(at=NOW + timedelta(seconds=2))
    assert [office.refused("wrong", NOW + timedelta(seconds=3)) for _ in range(3)] == [0, 0, 0]


def test_racers_get_no_more_tries_than_the_budget_has(store: Store, office: Office) -> None:
    begun = gevent.event.Event()

    def verify_together(stored: str | None, password: str) -> bool:
        right = office.verify(stored, password)
        if office.looked_at == operators.TRIES.burst:
            begun.set()
        assert begun.wait(10)
        return right

    def attempt() -> None:
        with pytest.raises(SignInRefused):
            operators.sign_in(
                store, "ana@hotel.example", "wrong", verify=verify_together, renew=current_already, now=NOW
            )

    gevent.joinall([gevent.spawn(attempt) for _ in range(2 * operators.TRIES.burst)], raise_error=True)
    assert office.looked_at == operators.TRIES.burst
    assert office.refused(at=NOW + timedelta(seconds=60)) not in (0, None)


def test_who_signs_in_twice_at_once_is_not_taken_for_a_guesser(store: Store, office: Office) -> None:
    """What is being looked at is not wrong yet: two mistakes and two windows are not four mistakes."""
    for _ in range(2):
        office.refused("wrong")
    both_began = gevent.event.Event()
    began = [0]

    def verify_together(stored: str | None, password: str) -> bool:
        began[0] += 1
        if began[0] == 2:
            both_began.set()
        assert both_began.wait(10)
        return office.verify(stored, password)

    def sign_in() -> str:
        return operators.sign_in(
            store, "ana@hotel.example", GOOD, verify=verify_together, renew=current_already, now=NOW
        )[0]

    windows = [gevent.spawn(sign_in) for _ in range(2)]
    gevent.joinall(windows, raise_error=True)
    assert [office.current(window.get()) for window in windows] == [office.ana] * 2


def test_a_hundred_wrong_passwords_in_a_row_need_a_new_link(office: Office) -> None:
    moment = NOW
    while (told := office.refused("wrong", moment)) is not None:
        moment += timedelta(minutes=5) if told == 0 else timedelta(seconds=told)
    assert office.looked_at == 100
    assert office.refused(GOOD, moment + timedelta(days=30)) is None
    with office.store.transaction() as db:
        operators.use_invitation(db, operators.invite_again(db, office.ana, moment), hashed(GOOD), moment)
    assert office.signs_in(at=moment)[1] == office.ana


def test_an_attacker_does_not_shut_an_operator_out_of_a_browser_he_knows(office: Office) -> None:
    for second in range(60):
        office.refused("wrong", NOW + timedelta(seconds=second))
    assert office.refused(GOOD, NOW + timedelta(seconds=60)) != 0
    assert office.signs_in(at=NOW + timedelta(seconds=60), known=True)[1] == office.ana


def test_a_password_that_was_changed_while_the_old_one_was_verified_does_not_sign_in(office: Office) -> None:
    def slow(stored: str | None, password: str) -> bool:
        office.changes(lambda db: operators.set_password(db, office.ana, hashed("another long password")))
        return verify(stored, password)

    with pytest.raises(SignInRefused):
        operators.sign_in(office.store, "ana@hotel.example", GOOD, verify=slow, renew=current_already, now=NOW)


class OldHash:
    """Passwords as an older release hashed them, and how this one hashes them anew."""

    def __init__(self, office: Office) -> None:
        self.office = office
        self.store(f"older hash of {GOOD}")

    def store(self, password_hash: str) -> None:
        self.office.changes(lambda db: db.execute(operators.SET_PASSWORD, self._values(password_hash)))

    def stored(self) -> str:
        with self.office.store.read() as db:
            return str(db.execute(operators.PASSWORD, {"operator_id": self.office.ana.id}).scalar_one())

    def _values(self, password_hash: str) -> dict[str, object]:
        return {"operator_id": self.office.ana.id, "password_hash": password_hash}

    def verify(self, stored: str | None, password: str) -> bool:
        return stored in (f"older hash of {password}", hashed(password))

    def renew(self, stored: str, password: str) -> str | None:
        return None if stored == hashed(password) else hashed(password)

    def sign_in(self, renew: Callable[[str, str], str | None] | None = None) -> str:
        return operators.sign_in(
            self.office.store, "ana@hotel.example", GOOD, verify=self.verify, renew=renew or self.renew, now=NOW
        )[0]


@pytest.fixture
def old_hash(office: Office) -> OldHash:
    return OldHash(office)


def test_a_password_that_was_hashed_by_older_rules_is_hashed_anew_at_a_sign_in(old_hash: OldHash) -> None:
    first = old_hash.sign_in()
    assert old_hash.stored() == hashed(GOOD)
    second = old_hash.sign_in()
    assert [old_hash.office.current(secret) for secret in (first, second)] == [old_hash.office.ana] * 2


@pytest.mark.parametrize("error", [Busy, Unavailable])
def test_a_sign_in_holds_though_the_password_cannot_be_hashed_anew(old_hash: OldHash, error: type[Exception]) -> None:
    def fail(_stored: str, _password: str) -> str:
        raise error

    assert old_hash.office.current(old_hash.sign_in(fail)) == old_hash.office.ana
    assert old_hash.stored() == f"older hash of {GOOD}"


def test_a_password_that_is_changed_while_the_old_one_is_hashed_anew_stays_changed(old_hash: OldHash) -> None:
    def slow(_stored: str, password: str) -> str:
        old_hash.store(hashed("another long password"))
        return hashed(password)

    old_hash.sign_in(slow)
    assert old_hash.stored() == hashed("another long password")


def test_another_window_that_has_the_password_hashed_anew_disturbs_no_sign_in(old_hash: OldHash) -> None:
    seen: list[str | None] = []

    def verify_late(stored: str | None, password: str) -> bool:
        seen.append(stored)
        if len(seen) == 1:
            old_hash.sign_in()
        return old_hash.verify(stored, password)

    secret, operator = operators.sign_in(
        old_hash.office.store, "ana@hotel.example", GOOD, verify=verify_late, renew=old_hash.renew, now=NOW
    )
    assert old_hash.office.current(secret) == operator
    assert seen == [f"older hash of {GOOD}", hashed(GOOD)]


def test_a_new_password_signs_out_everywhere_but_here(office: Office) -> None:
    here, there = office.signs_in()[0], office.signs_in()[0]
    with office.store.transaction() as db:
        mine = operators.current(db, here, NOW)
        assert mine is not None
        operators.set_password(db, office.ana, hashed("another"), but=mine.session_id)
    assert office.current(here) is not None
    assert office.current(there) is None


def test_a_stopped_operator_is_out_at_once(office: Office) -> None:
    office.changes(lambda db: operators.add(db, "head@hotel.example", Role.OWNER, None, NOW))
    secret, _ = office.signs_in()
    office.changes(lambda db: operators.disable(db, office.ana, NOW))
    assert office.current(secret) is None
    office.changes(lambda db: operators.enable(db, office.ana, NOW))
    assert office.current(secret) is None
    assert office.signs_in()[1].email == "ana@hotel.example"


def test_an_operator_sees_his_browsers_and_can_end_each(office: Office) -> None:
    secrets = [
        operators.sign_in(
            office.store, "ana@hotel.example", GOOD, verify=verify, renew=current_already,
            now=NOW + timedelta(minutes=number), address="198.51.100.7", agent=f"Browser\x1b {number}",
        )[0]
        for number in range(3)
    ]  # fmt: skip
    with office.store.transaction() as db:
        listed = operators.browsers(db, office.ana, NOW + timedelta(minutes=3))
        assert [browser.agent for browser in listed] == ["Browser  2", "Browser  1", "Browser  0"]
        operators.sign_out_one(db, office.ana, listed[0].id)
    assert [office.current(secret) is None for secret in secrets] == [False, False, True]
    office.changes(lambda db: operators.sign_out_everywhere(db, office.ana, but=listed[1].id))
    assert [office.current(secret) is None for secret in secrets] == [True, False, True]


def test_what_is_over_is_deleted(office: Office) -> None:
    office.signs_in()
    with office.store.transaction() as db:
        assert operators.forget(db, NOW) == 0
        assert operators.forget(db, NOW + timedelta(days=60)) == 2


# The record


def test_a_change_and_its_record_stand_or_fall_together(office: Office) -> None:
    with pytest.raises(RuntimeError), office.store.transaction() as db:  # noqa: PT012
        networks.add(db, "linde", "Linde", NOW)
        operators.audit(db, "ana@hotel.example", "network.add", "linde", NOW)
        raise RuntimeError
    with office.store.read() as db:
        assert networks.listed(db) == []
        assert [entry.action for entry in operators.record(db, None)] == ["operator.first"]


def test_the_record_is_read_newest_first_and_by_network(db: Connection) -> None:
    linde, zoo = (networks.add(db, slug, slug, NOW) for slug in ("linde", "zoo"))
    for network in (linde, zoo, linde):
        operators.audit(
            db, "cli", "plan.add", "Day", NOW, network_id=network.id, detail={"minutes": 60, "at": NOW, "name": "Tür"}
        )
    entries = operators.record(db, [linde.id])
    assert [entry.network_id for entry in entries] == [linde.id, linde.id]
    assert entries[0].id > entries[1].id
    assert entries[0].detail == {"minutes": 60, "at": str(NOW), "name": "Tür"}
    assert len(operators.record(db, None, most=2)) == 2
    assert operators.record(db, None, before=entries[1].id) == []
    assert operators.record(db, []) == []


# Asked again


def test_a_password_asked_for_again_is_counted_like_a_sign_in_and_opens_nothing(office: Office) -> None:
    operators.confirm(office.store, office.ana, GOOD, verify=office.verify, now=NOW)
    with pytest.raises(SignInRefused):
        operators.confirm(office.store, office.ana, "wrong", verify=office.verify, now=NOW)
    with office.store.read() as db:
        assert operators.browsers(db, office.ana, NOW) == []
    for _ in range(operators.TRIES.burst):
        with pytest.raises(SignInRefused) as refused:
            operators.confirm(office.store, office.ana, "wrong", verify=office.verify, now=NOW)
    assert refused.value.retry_seconds != 0
