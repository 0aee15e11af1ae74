"""Work beside the event loop: it goes on, bounded, and nothing dangerous comes back."""

from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from argon2 import PasswordHasher
from gevent import monkey
from gevent.event import Event
from PIL import ExifTags, Image, PngImagePlugin

import portal.offload
from portal.offload import Busy, Offload, Unsuitable, _child, in_turns

LOGO = Path(portal.offload.__file__).with_name("logo.py")
native_sleep = monkey.get_original("time", "sleep")


@pytest.fixture(scope="module")
def offload() -> Iterator[Offload]:
    offload = Offload()
    yield offload
    offload.close()


class Ticker:
    """A greenlet that counts how often the loop lets it run."""

    def __init__(self) -> None:
        self.ticks = 0
        self._greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        while True:
            gevent.sleep(0.002)
            self.ticks += 1

    def stop(self) -> int:
        self._greenlet.kill()
        return self.ticks


# ---- threads


def test_a_password_is_known_again_and_another_is_not(offload: Offload) -> None:
    stored = offload.hash_password("correct horse")
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert offload.verify_password(stored, "correct horse") is True
    assert offload.verify_password(stored, "correct horsf") is False
    assert stored != offload.hash_password("correct horse")


@pytest.mark.parametrize("stored", [None, "", "nonsense", "$argon2id$v=19$m=19456,t=2,p=1$AAAA$AAAA", "$2b$12$abc"])
def test_what_is_not_a_hash_fits_no_password(offload: Offload, stored: str | None) -> None:
    assert offload.verify_password(stored, "") is False
    assert offload.verify_password(stored, "password") is False


@pytest.mark.parametrize("password", ["", "\ud800", "\0", "é" * 10_000, "密码"])
def test_any_text_can_be_a_password(offload: Offload, password: str) -> None:
    stored = offload.hash_password(password)
    assert offload.verify_password(stored, password) is True
    assert offload.verify_password(stored, password + "x") is False


def test_an_account_that_does_not_exist_costs_as_much_as_one_that_does(offload: Offload) -> None:
    """Counted in processor time of this process, which nobody else's work changes."""
    stored = offload.hash_password("x")

    def cost(of: str | None) -> float:
        start = time.process_time()
        for _ in range(5):
            offload.verify_password(of, "wrong")
        return time.process_time() - start

    assert 0.5 < cost(None) / cost(stored) < 2


def test_a_hash_with_other_parameters_is_outdated(offload: Offload) -> None:
    assert not offload.is_outdated(offload.hash_password("x"))
    assert offload.is_outdated("$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHRzYWx0c2FsdA$" + "A" * 43)
    assert offload.is_outdated("nonsense")


def test_a_right_password_is_hashed_anew_only_where_its_hash_is_outdated(offload: Offload) -> None:
    older = PasswordHasher(time_cost=1, memory_cost=8 * 1024, parallelism=1).hash("breakfast")
    renewed = offload.renewed(older, "breakfast")
    assert renewed is not None
    assert offload.verify_password(renewed, "breakfast")
    assert offload.renewed(renewed, "breakfast") is None


def test_the_loop_goes_on_while_passwords_are_hashed(offload: Offload) -> None:
    ticker = Ticker()
    gevent.joinall([gevent.spawn(offload.hash_password, "x") for _ in range(6)], raise_error=True)
    assert ticker.stop() >= 5


def test_wrong_passwords_leave_nothing_on_standard_error(offload: Offload, capfd: pytest.CaptureFixture[str]) -> None:
    offload.verify_password(offload.hash_password("x"), "y")
    offload.verify_password("nonsense", "y")
    with pytest.raises(ZeroDivisionError):
        offload.run(lambda: 1 / 0)
    assert capfd.readouterr().err == ""


def test_work_is_done_in_another_thread_with_its_arguments_and_result(offload: Offload) -> None:
    def work(one: int, *, two: int) -> tuple[int, int]:
        return one + two, monkey.get_original("_thread", "get_ident")()

    total, thread = offload.run(work, 1, two=2)
    assert total == 3
    assert thread != monkey.get_original("_thread", "get_ident")()


def test_whoever_waits_for_a_socket_has_a_turn_while_long_work_goes_on() -> None:
    ours, theirs = socket.socketpair()
    seen: list[int] = []

    def answers() -> None:
        while data := theirs.recv(1):
            seen.append(data[0])

    def steps() -> Iterator[int]:
        for number in range(5):
            ours.send(bytes([number]))
            native_sleep(0.005)
            yield number
            assert seen == list(range(number + 1))

    waiting = gevent.spawn(answers)
    assert in_turns(steps()) == [0, 1, 2, 3, 4]
    ours.close()
    waiting.join(timeout=5)
    theirs.close()


def test_so_many_run_so_many_wait_and_the_next_is_told_at_once() -> None:
    offload = Offload(running=2, waiting=3)
    go = monkey.get_original("_thread", "allocate_lock")()
    go.acquire()
    inside = 0

    def work() -> None:
        nonlocal inside
        inside += 1
        with go:
            pass

    working = [gevent.spawn(offload.run, work) for _ in range(5)]
    gevent.sleep(0.1)
    assert inside == 2
    with pytest.raises(Busy):
        offload.run(work)
    assert offload.threads.refused == 1
    assert offload.threads.inside == 5
    go.release()
    gevent.joinall(working, timeout=5, raise_error=True)
    assert inside == 5
    assert offload.threads.inside == 0
    offload.close()


def test_a_caller_who_leaves_the_line_is_never_served_and_one_who_leaves_his_work_keeps_his_place() -> None:
    offload = Offload(running=1, waiting=1)
    go = monkey.get_original("_thread", "allocate_lock")()
    go.acquire()
    done: list[str] = []

    def work(name: str) -> None:
        with go:
            done.append(name)

    first = gevent.spawn(offload.run, work, "first")
    gevent.sleep(0.05)
    second = gevent.spawn(offload.run, work, "second")
    gevent.sleep(0.05)
    second.kill()
    first.kill()
    assert offload.threads.inside == 1, "the thread is still at it"
    third = gevent.spawn(offload.run, work, "third")
    gevent.sleep(0.05)
    assert done == []
    go.release()
    third.get(timeout=5)
    assert done == ["first", "third"]
    assert offload.threads.inside == 0
    offload.close()


# ---- pictures


def picture(form: str, size: tuple[int, int] = (800, 300), mode: str = "RGB", **options: object) -> bytes:
    image = Image.new(mode, size)
    image.paste(Image.linear_gradient("L").resize(size).convert(mode))
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def opened(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    return image


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP"])
def test_a_picture_becomes_a_small_png(offload: Offload, form: str) -> None:
    image = opened(offload.safe_logo(picture(form, (1200, 600))))
    assert image.format == "PNG"
    assert image.size == (512, 256)


def test_a_small_picture_is_not_blown_up_and_keeps_its_transparency(offload: Offload) -> None:
    source = Image.new("RGBA", (30, 20), (255, 0, 0, 0))
    source.putpixel((1, 1), (0, 0, 255, 255))
    out = io.BytesIO()
    source.save(out, "PNG")
    image = opened(offload.safe_logo(out.getvalue()))
    assert (image.size, image.mode) == ((30, 20), "RGBA")
    assert image.getpixel((0, 0))[3] == 0
    assert image.getpixel((1, 1)) == (0, 0, 255, 255)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_even_a_picture_of_noise_is_drawn_small_enough_for_a_slow_line(offload: Offload, mode: str) -> None:
    noise = Image.frombytes(mode, (1000, 700), os.urandom(1000 * 700 * len(mode)))
    out = io.BytesIO()
    noise.save(out, "PNG")
    png = offload.safe_logo(out.getvalue())
    assert len(png) <= 14 * 1024
    image = opened(png)
    assert image.width >= 96
    assert ("transparency" in image.info) == (mode == "RGBA")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I;16", "RGBA"])
def test_every_kind_of_png_is_taken(offload: Offload, mode: str) -> None:
    out = io.BytesIO()
    Image.new(mode, (40, 40)).save(out, "PNG")
    assert opened(offload.safe_logo(out.getvalue())).size == (40, 40)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_every_kind_of_jpeg_is_taken(offload: Offload, mode: str) -> None:
    assert opened(offload.safe_logo(picture("JPEG", mode=mode))).mode == "RGB"


def test_a_palette_with_a_transparent_colour_and_an_animation_are_taken(offload: Offload) -> None:
    out = io.BytesIO()
    frames = [Image.new("P", (20, 20), n) for n in range(3)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], transparency=0, loop=0)
    assert opened(offload.safe_logo(out.getvalue())).size == (20, 20)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_nothing_is_kept_but_the_pixels_and_those_stand_upright(offload: Offload, form: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Artist] = "secret-artist"
    extra: dict[str, object] = {"exif": exif, "icc_profile": b"secret-profile"}
    if form == "PNG":
        extra["pnginfo"] = PngImagePlugin.PngInfo()
        extra["pnginfo"].add_text("Comment", "secret-comment")
    data = picture(form, (60, 30), **extra)
    assert b"secret" in data
    png = offload.safe_logo(data + b"<script>secret-tail</script>")
    assert b"secret" not in png
    assert opened(png).size == (30, 60)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>",
        b"<!DOCTYPE html><script></script>",
        b"%PDF-1.7",
        b"BM" + b"\0" * 60,
        b"II*\0" + b"\0" * 60,
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"\0\0\0\x20ftypavif" + b"\0" * 60,
        b"RIFF\0\0\0\0WAVE",
        b" \x89PNG\r\n\x1a\n",
    ],
)
def test_only_four_formats_are_looked_at(offload: Offload, data: bytes) -> None:
    with pytest.raises(Unsuitable, match="Only PNG, JPEG, GIF and WebP"):
        offload.safe_logo(data)
    assert offload.children.inside == 0


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP"])
def test_damaged_pictures_are_refused_or_cleaned(offload: Offload, form: str) -> None:
    whole = picture(form, (64, 64))
    for data in (whole[:12], whole[: len(whole) // 2], whole[:20] + b"\xff" * 40 + whole[60:]):
        outcome = gevent.spawn(offload.safe_logo, data)
        outcome.join()
        if outcome.successful():
            assert opened(outcome.value).size <= (64, 64)
        else:
            assert isinstance(outcome.exception, Unsuitable)
            assert "damaged" in str(outcome.exception)


def png_of(width: int, height: int, data: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(4001, 4000), (60_000, 60_000), (2**31 - 1, 2**31 - 1), (16_000_001, 1)])
def test_a_picture_with_too_many_pixels_is_refused_by_its_head(offload: Offload, size: tuple[int, int]) -> None:
    with pytest.raises(Unsuitable, match="more than 16 million pixels"):
        offload.safe_logo(png_of(*size, zlib.compress(b"\0" * 1000)))


def test_a_picture_that_says_it_is_small_and_swells_is_refused(offload: Offload) -> None:
    bomb = zlib.compress(b"\0" * 200_000_000, 9)
    try:
        png = offload.safe_logo(png_of(100, 100, bomb))
    except Unsuitable:
        return
    assert opened(png).size == (100, 100)


def test_a_file_over_five_megabytes_is_not_even_looked_at(offload: Offload) -> None:
    with pytest.raises(Unsuitable, match="larger than 5 MB"):
        offload.safe_logo(b"\x89PNG\r\n\x1a\n" + b"\0" * 5 * 2**20)


def test_the_loop_goes_on_while_pictures_are_decoded(offload: Offload) -> None:
    data = picture("PNG", (3000, 3000))
    ticker = Ticker()
    gevent.joinall([gevent.spawn(offload.safe_logo, data) for _ in range(2)], raise_error=True)
    assert ticker.stop() >= 20


def test_children_have_a_line_of_their_own() -> None:
    offload = Offload(running=1, waiting=1)
    data = picture("PNG")
    tasks = [gevent.spawn(offload.safe_logo, data) for _ in range(4)]
    gevent.joinall(tasks)
    outcomes = [type(task.exception) for task in tasks]
    assert outcomes.count(Busy) == 2
    assert offload.children.refused == 2
    assert offload.children.inside == 0
    assert offload.hash_password("x")
    offload.close()


def in_the_room(code: str) -> subprocess.CompletedProcess[bytes]:
    """Run code with the rights that a decoder has."""
    program = f"import runpy, sys, os, socket\nroom = runpy.run_path({str(LOGO)!r})\nroom['shut_in']()\n{code}\n"
    return subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, check=False, timeout=30)


@pytest.mark.parametrize(
    "code",
    [
        "open('/etc/passwd')",
        "open('/dev/shm/escape', 'w')",
        "socket.socket()",
        "os.pipe()",
        "bytearray(600 * 2**20)",
        "os.fork()",
        "os.setuid(0)",
        "os.kill(os.getppid(), 0)",
        "__import__('resource').setrlimit(7, (100, 100))",
    ],
)
def test_a_decoder_that_is_taken_over_can_reach_nothing(code: str) -> None:
    ended = in_the_room(code)
    assert ended.returncode != 0
    assert b"Error" in ended.stderr


def test_a_child_that_hangs_is_ended_and_leaves_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    status, output = _child(
        [sys.executable, "-I", "-c", "import time; print('x', flush=True); time.sleep(60)"], b"", 0.5
    )
    assert (status, output) == (-9, b"")
    assert time.monotonic() - start < 5
    assert capfd.readouterr().err == ""


def test_a_child_whose_caller_is_killed_does_not_live_on(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    code = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    waiting = gevent.spawn(_child, [sys.executable, "-I", "-c", code], b"", 60.0)
    end = time.monotonic() + 10
    while not (mark.exists() and mark.read_text()):
        assert time.monotonic() < end
        gevent.sleep(0.01)
    waiting.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


def test_a_child_gets_none_of_our_environment_and_none_of_our_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTAL_DATABASE__URL", "secret")
    held, other = os.pipe()
    code = "import os; print(dict(os.environ), sorted(int(n) for n in os.listdir('/proc/self/fd')))"
    _, output = _child([sys.executable, "-I", "-c", code], b"", 10.0)
    os.close(held)
    os.close(other)
    assert b"secret" not in output
    assert output.rstrip().endswith(b"[0, 1, 2, 3]")  # the last is the listing itself


def test_threads_and_events_of_the_caller_are_left_alone(offload: Offload) -> None:
    ready = Event()
    gevent.spawn(ready.set)
    assert offload.run(native_sleep, 0.05) is None
    assert ready.is_set()
    assert threading.current_thread() is threading.main_thread()
