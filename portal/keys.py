"""The installation's secrets, and everything that is made with them: tokens, look-up keys of codes, seals, signatures.

Promises: the secrets live in one file, `keys` in the state directory, readable by its owner alone, and never in the
database, so that a stolen dump opens nothing; the file is made once, however many processes start at the same time;
what an older key made is recognised for as long as that key stands in the file. No error message holds a secret.
Never logs, never touches the database, never decides who may do what.

A token is 40 characters of `[a-z2-7]`, which is base32 without padding of exactly 25 bytes: one byte key id, 16 random
bytes, the first 8 bytes of HMAC-SHA256 over the 17 before. A gateway pastes it into its requests unencoded, and whether
it was ever minted here can be told without a database.

Rotation adds a key, under the next id, to the file. A running process notices the new file when it meets an id that it
does not know, so the processes of one machine need no order; on several machines, copy the file to each before any is
restarted.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import functools
import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FILE_NAME = "keys"
FILE_VERSION = 1

_TOKEN_LENGTH = 40
_TOKEN = re.compile(f"[a-z2-7]{{{_TOKEN_LENGTH}}}")
# int() reads base 32 in C, six times as fast as base64.b32decode, which is written in Python; only the digits differ.
_DIGITS = str.maketrans("abcdefghijklmnopqrstuvwxyz234567", "0123456789abcdefghijklmnopqrstuv")
_TOKEN_RANDOM = 16
_TOKEN_CHECK = 8
_NONCE = 12
_SIGNATURE = 16


class KeysError(Exception):
    """The key file cannot be used; the message says why and what to do. Never holds a secret."""


class Unreadable(Exception):
    """A sealed text was changed, or the key that sealed it is not in the key file."""


class _Key(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    id: int
    secret: str


class _File(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    version: int
    current: int
    keys: list[_Key]


@dataclass(frozen=True, slots=True)
class _Derived:
    """One root secret's working keys, one for each purpose, so that no use can help to break another."""

    root: bytes
    tokens: bytes
    codes: bytes
    logs: bytes
    seal: AESGCM


@dataclass(frozen=True, slots=True)
class _Loaded:
    current: int
    keys: dict[int, _Derived]
    # Device, inode, size and time of the file that was read: whether it has been replaced since.
    mark: tuple[int, int, int, int]


class Keyring:
    """The keys of one installation, held in memory. Safe to share between greenlets and threads."""

    def __init__(self, path: Path) -> None:
        """Reads the key file at `path`. Raises KeysError where it is missing, damaged or open to others."""
        self._path = path
        self._loaded = _load(path)

    @classmethod
    def load_or_create(cls, state_dir: Path) -> Keyring:
        """The keyring of an installation; its directory and key file are made where they are missing.

        Processes that start together agree: one file wins, the others read it.
        Raises KeysError for a file that others may read or change, or that is not ours or not whole.
        """
        path = state_dir / FILE_NAME
        if not path.exists():
            make_state_dir(state_dir)
            _create(path, _encode(_File(FILE_VERSION, 1, [_new_key(1)])))
        return cls(path)

    # Tokens

    def mint_token(self) -> str:
        """A new token: 128 random bits that prove where they come from."""
        loaded = self._loaded
        body = bytes((loaded.current,)) + secrets.token_bytes(_TOKEN_RANDOM)
        check = hmac.digest(loaded.keys[loaded.current].tokens, body, "sha256")[:_TOKEN_CHECK]
        return base64.b32encode(body + check).decode("ascii").lower()

    def genuine(self, token: str) -> bool:
        """Whether this installation minted `token`, ever. Says nothing about what has become of it since."""
        if not _TOKEN.fullmatch(token):
            return False
        raw = int(token.translate(_DIGITS), 32).to_bytes(25, "big")
        key = self._key(raw[0])
        if key is None:
            return False
        body = raw[:-_TOKEN_CHECK]
        return hmac.compare_digest(hmac.digest(key.tokens, body, "sha256")[:_TOKEN_CHECK], raw[-_TOKEN_CHECK:])

    @staticmethod
    def token_hash(token: str) -> bytes:
        """What the database keeps of a token. A fast hash is right for 128 random bits (ASVS 5.0, 6.5.2)."""
        return hashlib.sha256(token.encode("ascii", "replace")).digest()

    @classmethod
    def token_name(cls, token: str) -> str:
        """`token_hash` in hexadecimal. The same string each time for tokens that come again, as those of polls do."""
        return _remembered_name(token) if len(token) == _TOKEN_LENGTH else cls.token_hash(token).hex()

    # Names for the log

    def short(self, text: str) -> str:
        """Eight hex digits that stand for `text` in logs: equal for equal texts, useless to whoever lacks the keys."""
        loaded = self._loaded
        return hmac.digest(loaded.keys[loaded.current].logs, text.encode("utf-8", "replace"), "sha256").hex()[:8]

    def mac_short(self, mac: str | None) -> str:
        """`short` of a station's MAC, in whatever spelling it came; "-" where the gateway named none."""
        if not mac:
            return "-"
        return self.short(re.sub("[^0-9a-f]", "", mac.lower()))

    # Codes

    def code_index(self, code: str) -> bytes:
        """What a new code is stored and found by: a keyed hash under the current key. `code` is normalised."""
        loaded = self._loaded
        return hmac.digest(loaded.keys[loaded.current].codes, code.encode(), "sha256")

    def code_indexes(self, code: str) -> list[bytes]:
        """Everything that `code` may have been stored by, the current key's first: codes outlive a rotation."""
        loaded = self._fresh()
        order = sorted(loaded.keys, key=lambda key_id: (key_id != loaded.current, -key_id))
        return [hmac.digest(loaded.keys[key_id].codes, code.encode(), "sha256") for key_id in order]

    # Seals

    def seal(self, text: str) -> bytes:
        """`text` as the database may keep it: key id, nonce, AES-256-GCM. Opened again by `open`."""
        loaded = self._loaded
        head = bytes((loaded.current,))
        nonce = secrets.token_bytes(_NONCE)
        return head + nonce + loaded.keys[loaded.current].seal.encrypt(nonce, text.encode(), head)

    def open(self, sealed: bytes) -> str:
        """The text that was sealed. Raises Unreadable if it was changed or its key is not known here."""
        key = self._key(sealed[0]) if sealed else None
        if key is None:
            raise Unreadable("sealed with a key that is not in the key file")
        try:
            return key.seal.decrypt(sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :], sealed[:1]).decode()
        except (InvalidTag, ValueError):
            raise Unreadable("the sealed text was changed, or another installation sealed it") from None

    # Signatures

    def sign(self, purpose: str, payload: bytes, expires: int) -> str:
        """`payload` with a signature, safe in URLs, forms and cookies; it may be read by whoever holds it.

        `expires` is a Unix time in seconds. What was signed for one purpose is worth nothing for another.
        """
        loaded = self._loaded
        body = bytes((loaded.current,)) + expires.to_bytes(8, "big") + payload
        check = hmac.digest(_derive(loaded.keys[loaded.current].root, f"sign {purpose}"), body, "sha256")[:_SIGNATURE]
        return base64.urlsafe_b64encode(body + check).decode("ascii").rstrip("=")

    def unsign(self, purpose: str, signed: str, now: int) -> bytes | None:
        """The payload, or None for anything that was not signed here for `purpose` or that expired by `now`."""
        try:
            raw = base64.b64decode(signed + "=" * (-len(signed) % 4), altchars=b"-_", validate=True)
        except ValueError:
            return None
        if len(raw) < 1 + 8 + _SIGNATURE:
            return None
        key = self._key(raw[0])
        if key is None:
            return None
        body, check = raw[:-_SIGNATURE], raw[-_SIGNATURE:]
        expected = hmac.digest(_derive(key.root, f"sign {purpose}"), body, "sha256")[:_SIGNATURE]
        if not hmac.compare_digest(expected, check) or int.from_bytes(body[1:9], "big") <= now:
            return None
        return body[9:]

    def secret(self, purpose: str) -> bytes:
        """32 bytes for a library that wants a key of its own. Changes with a rotation."""
        loaded = self._loaded
        return _derive(loaded.keys[loaded.current].root, f"secret {purpose}")

    def _key(self, key_id: int) -> _Derived | None:
        """The key of that id. A forger can choose the id, so that an unknown one may cost a stat() and no more."""
        return self._loaded.keys.get(key_id) or self._fresh().keys.get(key_id)

    def _fresh(self) -> _Loaded:
        """The keys; the file is read again if it was replaced since, as a rotation does.

        A file that is being replaced badly must not turn a poll into an error: what was loaded stays.
        """
        with contextlib.suppress(OSError, KeysError):
            if _mark(os.stat(self._path)) != self._loaded.mark:
                self._loaded = _load(self._path)
        return self._loaded


# Found in half the time that it takes to make, and what is kept by it is found sooner, too. As many as may be online.
@functools.lru_cache(maxsize=2**17)
def _remembered_name(token: str) -> str:
    return Keyring.token_hash(token).hex()


def make_state_dir(state_dir: Path) -> None:
    """Makes the state directory where it is missing. Others may not list it.

    The superuser's is made passable (0711), since the embedded database's own user must reach its directory in it.
    """
    try:
        state_dir.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            state_dir.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700)
    except OSError as error:
        raise KeysError(f"{state_dir}: cannot be made: {error.strerror}") from None


def rotate(state_dir: Path) -> int:
    """Adds a key and makes it current; returns its id. Everything that older keys made stays good.

    Raises KeysError when all 255 ids are taken or there is no key file yet.
    """
    path = state_dir / FILE_NAME
    with _locked(state_dir):
        old = _decode(path, _read(path)[0])
        key_id = max(key.id for key in old.keys) + 1
        if key_id > 255:
            raise KeysError(f"{path}: all 255 key ids are taken")
        _replace(path, _encode(_File(FILE_VERSION, key_id, [*old.keys, _new_key(key_id)])))
    return key_id


def exported(state_dir: Path) -> bytes:
    """The key file's content, for a backup. Raises KeysError where there is none that can be used."""
    path = state_dir / FILE_NAME
    content, _ = _read(path)
    _decode(path, content)
    return content


def installed(state_dir: Path, content: bytes) -> Path | None:
    """Puts a backup's key file in place. A different one that stood there is kept beside it; its path is returned."""
    path = state_dir / FILE_NAME
    _decode(path, content)
    make_state_dir(state_dir)
    with _locked(state_dir):
        kept = None
        if path.exists():
            if path.read_bytes() == content:
                return None
            kept = path.with_name(f"{FILE_NAME}.{secrets.token_hex(4)}")
            os.link(path, kept)
        _replace(path, content)
    return kept


def checked(path: Path, content: bytes) -> None:
    """Refuse what is no key file, with KeysError; `path` is where it came from."""
    _decode(path, content)


def problem(state_dir: Path) -> str | None:
    """What is wrong with the key file, in a sentence, or None. For the doctor; changes nothing."""
    try:
        exported(state_dir)
    except KeysError as error:
        return str(error)
    return None


def _derive(root: bytes, purpose: str) -> bytes:
    return hmac.digest(root, f"gatepost {purpose}".encode(), "sha256")


def _new_key(key_id: int) -> _Key:
    return _Key(key_id, base64.b64encode(secrets.token_bytes(32)).decode("ascii"))


def _encode(content: _File) -> bytes:
    return msgspec.json.format(msgspec.json.encode(content)) + b"\n"


def _decode(path: Path, content: bytes) -> _File:
    """The parsed file. msgspec's own messages name the field and the expected type, never the value."""
    try:
        parsed = msgspec.json.decode(content, type=_File)
    except msgspec.MsgspecError as error:
        raise KeysError(f"{path}: not a key file: {error}") from None
    if parsed.version != FILE_VERSION:
        raise KeysError(f"{path}: file version {parsed.version}, expected {FILE_VERSION}; made by a newer Gatepost?")
    ids = [key.id for key in parsed.keys]
    if len(set(ids)) != len(ids) or any(not 1 <= key_id <= 255 for key_id in ids) or parsed.current not in ids:
        raise KeysError(f"{path}: key ids must differ, lie between 1 and 255, and include the current one")
    for key in parsed.keys:
        try:
            whole = len(base64.b64decode(key.secret, validate=True)) == 32
        except ValueError:
            whole = False
        if not whole:
            raise KeysError(f"{path}: the secret of key {key.id} is not 32 bytes in base64")
    return parsed


def _load(path: Path) -> _Loaded:
    content, status = _read(path)
    parsed = _decode(path, content)
    keys = {}
    for key in parsed.keys:
        root = base64.b64decode(key.secret)
        keys[key.id] = _Derived(
            root, _derive(root, "tokens"), _derive(root, "codes"), _derive(root, "logs"), AESGCM(_derive(root, "seal"))
        )
    return _Loaded(parsed.current, keys, _mark(status))


def _read(path: Path) -> tuple[bytes, os.stat_result]:
    """The file's content and status. Checked on the open file, so that nothing can be swapped in between."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise KeysError(f"{path}: not a regular file")
            if status.st_mode & 0o077:
                mode = stat.S_IMODE(status.st_mode)
                raise KeysError(f"{path}: mode {mode:04o} lets others at the keys, expected 0600: chmod 600 {path}")
            if status.st_uid not in (os.geteuid(), 0):
                raise KeysError(f"{path}: belongs to user {status.st_uid}, expected {os.geteuid()}, who runs Gatepost")
            return file.read(), status
    except OSError as error:
        raise KeysError(f"{path}: cannot be read: {error.strerror}") from None


def _mark(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _written(path: Path, content: bytes) -> Path:
    """A file beside `path` with that content, on disk, 0600."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return beside


def _create(path: Path, content: bytes) -> None:
    """Makes the file unless it is there by now. A link, unlike a rename, never replaces what another process made."""
    try:
        beside = _written(path, content)
        try:
            with contextlib.suppress(FileExistsError):
                os.link(beside, path)
        finally:
            beside.unlink()
        _sync_directory(path.parent)
    except OSError as error:
        raise KeysError(f"{path}: cannot be made: {error.strerror}") from None


def _replace(path: Path, content: bytes) -> None:
    try:
        _written(path, content).replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        raise KeysError(f"{path}: cannot be written: {error.strerror}") from None


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _locked(state_dir: Path) -> Iterator[None]:
    """One change of the key file at a time. The directory itself is locked, so that no lock file is left lying."""
    try:
        handle = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise KeysError(f"{state_dir}: cannot be opened: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
