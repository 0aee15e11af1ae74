"""The installation's secrets: one file, made once, closed to others; without it, nothing made with it can be made."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal import keys
from portal.keys import Keyring, KeysError, Unreadable

TOKEN = re.compile("[a-z2-7]{40}")


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    return Keyring.load_or_create(tmp_path_factory.mktemp("ring"))


def rewrite(state_dir: Path, old: str, new: str) -> None:
    path = state_dir / "keys"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_first_start_makes_a_file_that_only_its_owner_may_read(state_dir: Path) -> None:
    Keyring.load_or_create(state_dir)
    assert (state_dir / "keys").stat().st_mode & 0o777 == 0o600
    assert state_dir.stat().st_mode & 0o066 == 0
    assert os.listdir(state_dir) == ["keys"]


def test_the_second_start_knows_what_the_first_one_made(state_dir: Path) -> None:
    first = Keyring.load_or_create(state_dir)
    again = Keyring.load_or_create(state_dir)
    assert again.genuine(first.mint_token())
    assert again.open(first.seal("7KQ2")) == "7KQ2"
    assert again.code_index("7KQ2") == first.code_index("7KQ2")
    assert again.secret("flask") == first.secret("flask")


def test_processes_that_start_together_agree_on_one_key_file(state_dir: Path) -> None:
    program = (
        "import sys, pathlib; from portal.keys import Keyring; print('ready', flush=True); sys.stdin.readline(); "
        "print(Keyring.load_or_create(pathlib.Path(sys.argv[1])).secret('race').hex())"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(state_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    found = {racer.communicate(timeout=30)[0] for racer in racers}
    assert [racer.returncode for racer in racers] == [0] * 6
    assert len(found) == 1
    assert os.listdir(state_dir) == ["keys"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_file_that_others_can_get_at_is_refused_with_the_command_that_mends_it(state_dir: Path, mode: int) -> None:
    Keyring.load_or_create(state_dir)
    (state_dir / "keys").chmod(mode)
    with pytest.raises(KeysError, match=f"mode {mode:04o}.*chmod 600"):
        Keyring.load_or_create(state_dir)
    assert "chmod 600" in str(keys.problem(state_dir))


def test_a_link_in_place_of_the_file_is_refused(state_dir: Path, tmp_path: Path) -> None:
    Keyring.load_or_create(state_dir)
    (state_dir / "keys").rename(tmp_path / "elsewhere")
    (state_dir / "keys").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeysError, match="cannot be read"):
        Keyring.load_or_create(state_dir)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"version": 1', '"version": 9', "file version 9, expected 1"),
        ('"current": 1', '"current": 2', "include the current one"),
        ('"id": 1', '"id": 0', "between 1 and 255"),
        ('"id": 1', '"id": "1"', "Expected `int`"),
        ('"secret": "', '"secret": "AAAA', "not 32 bytes in base64"),
        ('"secret": "', '"secret": "*', "not 32 bytes in base64"),
        ("{", "", "not a key file"),
        ('"version"', '"colour": 1, "version"', "unknown field `colour`"),
    ],
)
def test_a_damaged_file_is_refused_by_name_and_without_its_secret(
    state_dir: Path, old: str, new: str, said: str
) -> None:
    Keyring.load_or_create(state_dir)
    secret = re.search('"secret": "([^"]+)', (state_dir / "keys").read_text())
    assert secret is not None
    rewrite(state_dir, old, new)
    with pytest.raises(KeysError, match=re.escape(said)) as refused:
        Keyring.load_or_create(state_dir)
    assert str(state_dir / "keys") in str(refused.value)
    assert secret[1] not in str(refused.value)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KeysError, match="file/state"):
        Keyring.load_or_create(tmp_path / "file" / "state")


def test_two_installations_share_nothing(tmp_path: Path) -> None:
    here, there = (Keyring.load_or_create(tmp_path / name) for name in ("here", "there"))
    token = here.mint_token()
    assert not there.genuine(token)
    assert here.code_index("7KQ2") != there.code_index("7KQ2")
    assert here.short("aa:bb") != there.short("aa:bb")
    assert here.secret("flask") != there.secret("flask")
    assert there.unsign("form", here.sign("form", b"x", 100), 1) is None
    with pytest.raises(Unreadable):
        there.open(here.seal("7KQ2"))


# Tokens


def test_a_token_has_forty_characters_that_every_gateway_passes_on_unharmed(ring: Keyring) -> None:
    minted = {ring.mint_token() for _ in range(1000)}
    assert len(minted) == 1000
    assert all(TOKEN.fullmatch(token) and ring.genuine(token) for token in minted)


def test_a_token_is_a_key_id_128_random_bits_and_64_bits_of_proof(ring: Keyring) -> None:
    raw = base64.b32decode(ring.mint_token().upper())
    assert (len(raw), raw[0]) == (1 + 16 + 8, 1)


@given(position=st.integers(0, 39), letter=st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_a_token_with_any_character_changed_is_forged(ring: Keyring, position: int, letter: str) -> None:
    token = ring.mint_token()
    changed = token[:position] + letter + token[position + 1 :]
    assert ring.genuine(changed) == (changed == token)


@given(text=st.one_of(st.text(), st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=38, max_size=42)))
def test_what_was_not_minted_here_is_forged(ring: Keyring, text: str) -> None:
    assert not ring.genuine(text)


def test_a_token_in_another_spelling_is_forged(ring: Keyring) -> None:
    token = ring.mint_token()
    for spelling in (token.upper(), token + "\n", " " + token[1:], token[:-1], token + "a"):
        assert not ring.genuine(spelling)


def test_a_token_in_digits_of_another_script_is_forged(ring: Keyring) -> None:
    assert not ring.genuine("\N{ARABIC-INDIC DIGIT TWO}" * 40)


def test_the_hash_of_a_token_is_plain_sha256_so_that_every_process_agrees() -> None:
    assert Keyring.token_hash("a" * 40) == hashlib.sha256(b"a" * 40).digest()


@pytest.mark.parametrize("token", ["a" * 40, "", "é" * 40, "x" * 8000])
def test_the_name_of_a_token_is_its_hash_in_digits(token: str) -> None:
    assert Keyring.token_name(token) == Keyring.token_name(token) == Keyring.token_hash(token).hex()


def test_texts_longer_than_any_token_are_not_remembered() -> None:
    kept = keys._remembered_name.cache_info().currsize
    Keyring.token_name("long" * 2000)
    assert keys._remembered_name.cache_info().currsize == kept


# Rotation


def test_after_a_rotation_new_things_come_from_the_new_key_and_old_ones_stay_good(state_dir: Path) -> None:
    before = Keyring.load_or_create(state_dir)
    token, sealed = before.mint_token(), before.seal("x")
    index, signed = before.code_index("x"), before.sign("f", b"x", 9)
    assert keys.rotate(state_dir) == 2
    after = Keyring.load_or_create(state_dir)
    assert after.genuine(token)
    assert after.open(sealed) == "x"
    assert after.unsign("f", signed, 1) == b"x"
    assert after.code_index("x") != index
    assert after.code_indexes("x") == [after.code_index("x"), index]
    assert base64.b32decode(after.mint_token().upper())[0] == 2


def test_a_running_process_takes_up_a_rotated_key_when_it_meets_one(state_dir: Path) -> None:
    running = Keyring.load_or_create(state_dir)
    keys.rotate(state_dir)
    restarted = Keyring.load_or_create(state_dir)
    assert running.genuine(restarted.mint_token())
    assert running.open(restarted.seal("x")) == "x"
    assert running.unsign("f", restarted.sign("f", b"x", 9), 1) == b"x"


def test_a_running_process_knows_codes_that_were_issued_elsewhere_after_a_rotation(state_dir: Path) -> None:
    running = Keyring.load_or_create(state_dir)
    keys.rotate(state_dir)
    elsewhere = Keyring.load_or_create(state_dir)
    assert elsewhere.code_index("x") in running.code_indexes("x")


def test_a_running_process_keeps_its_keys_when_the_file_is_damaged_under_it(state_dir: Path) -> None:
    running = Keyring.load_or_create(state_dir)
    token = running.mint_token()
    (state_dir / "keys").write_text("{")
    unknown_id = "7" + token[1:]
    assert not running.genuine(unknown_id)
    assert running.genuine(token)


def test_key_ids_end_at_255_and_the_file_stays_as_it_was(state_dir: Path) -> None:
    Keyring.load_or_create(state_dir)
    rewrite(state_dir, '"id": 1', '"id": 255')
    rewrite(state_dir, '"current": 1', '"current": 255')
    before = (state_dir / "keys").read_bytes()
    with pytest.raises(KeysError, match="255"):
        keys.rotate(state_dir)
    assert (state_dir / "keys").read_bytes() == before


def test_a_rotation_needs_keys_to_rotate(tmp_path: Path) -> None:
    with pytest.raises(KeysError):
        keys.rotate(tmp_path)


# Backup


def test_a_backup_of_the_keys_opens_what_they_sealed_elsewhere(tmp_path: Path) -> None:
    old = Keyring.load_or_create(tmp_path / "old")
    assert keys.installed(tmp_path / "new", keys.exported(tmp_path / "old")) is None
    new = Keyring.load_or_create(tmp_path / "new")
    assert new.genuine(old.mint_token())
    assert (tmp_path / "new" / "keys").stat().st_mode & 0o777 == 0o600


def test_keys_that_a_restored_file_displaces_are_kept_beside_it(tmp_path: Path) -> None:
    token = Keyring.load_or_create(tmp_path / "here").mint_token()
    Keyring.load_or_create(tmp_path / "old")
    kept = keys.installed(tmp_path / "here", keys.exported(tmp_path / "old"))
    assert kept is not None
    assert Keyring(kept).genuine(token)
    assert not Keyring.load_or_create(tmp_path / "here").genuine(token)


def test_a_backup_that_is_no_key_file_changes_nothing(state_dir: Path) -> None:
    Keyring.load_or_create(state_dir)
    before = (state_dir / "keys").read_bytes()
    with pytest.raises(KeysError):
        keys.installed(state_dir, b"{}")
    assert (state_dir / "keys").read_bytes() == before


# Seals, signatures, names for the log


@given(text=st.text())
def test_a_sealed_text_opens_again_and_never_looks_the_same_twice(ring: Keyring, text: str) -> None:
    one, two = ring.seal(text), ring.seal(text)
    assert one != two
    assert ring.open(one) == ring.open(two) == text
    if len(text) > 3:
        assert text.encode() not in one


@given(where=st.integers(0, 40), flip=st.integers(1, 255))
def test_a_sealed_text_that_was_touched_does_not_open(ring: Keyring, where: int, flip: int) -> None:
    sealed = bytearray(ring.seal("7KQ2-MX4D-9R"))
    sealed[where] ^= flip
    with pytest.raises(Unreadable) as refused:
        ring.open(bytes(sealed))
    assert "7KQ2" not in str(refused.value)


@pytest.mark.parametrize("sealed", [b"", b"\x01", b"\x01" + b"0" * 12])
def test_what_is_too_short_to_be_sealed_does_not_open(ring: Keyring, sealed: bytes) -> None:
    with pytest.raises(Unreadable):
        ring.open(sealed)


@given(payload=st.binary(max_size=200), expires=st.integers(1, 2**40))
def test_a_signature_holds_until_the_second_it_expires(ring: Keyring, payload: bytes, expires: int) -> None:
    signed = ring.sign("form", payload, expires)
    assert re.fullmatch("[A-Za-z0-9_-]+", signed)
    assert ring.unsign("form", signed, expires - 1) == payload
    assert ring.unsign("form", signed, expires) is None
    assert ring.unsign("cookie", signed, expires - 1) is None


@given(data=st.data())
def test_a_signed_text_that_was_touched_is_worth_nothing(ring: Keyring, data: st.DataObject) -> None:
    raw = bytearray(base64.urlsafe_b64decode(ring.sign("form", b"lobby-", 1000) + "=="))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    assert ring.unsign("form", base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("="), 1) is None


@given(text=st.text())
def test_garbage_is_never_a_signature(ring: Keyring, text: str) -> None:
    assert ring.unsign("form", text, 0) is None


def test_logs_name_a_station_by_eight_digits_whatever_the_spelling_of_its_mac(ring: Keyring) -> None:
    assert re.fullmatch("[0-9a-f]{8}", ring.mac_short("02:00:5e:10:00:01"))
    assert ring.mac_short("02-00-5E-10-00-01") == ring.mac_short("02:00:5e:10:00:01")
    assert ring.mac_short("02:00:5e:10:00:01") != ring.mac_short("02:00:5e:10:00:02")
    assert ring.mac_short(None) == ring.mac_short("") == "-"
