"""Settings are checked before anything starts, and config.toml tells the truth about them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest

from portal import config
from portal.config import Invalid, Settings

REFERENCE = Path(config.__file__).parent.parent / "config.toml"


def written(folder: Path, text: str) -> Path:
    file = folder / "gatepost.toml"
    file.write_text(text)
    return file


def flat(settings: Settings) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in msgspec.to_builtins(settings).items():
        found |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return found


def test_config_toml_holds_every_key_with_its_default() -> None:
    assert flat(msgspec.convert(tomllib.loads(REFERENCE.read_text()), Settings)) == flat(Settings())
    told = [name for name, _ in config._in_file(REFERENCE, required=True)]
    assert told == list(config.keys())


def test_config_toml_explains_every_key() -> None:
    explained = False
    for line in REFERENCE.read_text().splitlines():
        if line.startswith("#"):
            explained = len(line) > 20 or explained
        elif "=" in line:
            assert explained, f"no comment above {line}"
        else:
            explained = False  # an empty line or a section ends what a comment speaks of


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    file = written(tmp_path, "")
    settings = config.load(file, {})
    assert settings.server == Settings().server
    assert settings.state == tmp_path / "state"


def test_the_installation_s_own_file_is_read_when_none_is_named() -> None:
    assert config.load(environment={}).state == REFERENCE.parent / "state"


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, 'state_dir = "here"\n[server]\nport = 81\n')
    settings = config.load(
        file,
        {
            "PORTAL_SERVER__PORT": "82",
            "PORTAL_STATE_DIR": "/var/lib/gatepost",
            "PORTAL_SERVER__TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/8",
            "PORTAL_SERVER__HEAD_SECONDS": "2.5",
            "PORTAL_LOG__FORMAT": "json",
            "HOME": "/root",
        },
    )
    assert settings.server.port == 82
    assert settings.server.trusted_proxies == ("127.0.0.1", "10.0.0.0/8")
    assert settings.server.head_seconds == 2.5
    assert settings.log.format == "json"
    assert settings.state == Path("/var/lib/gatepost")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[server]\nprot = 1\n", "gatepost.toml: server.prot is not a setting; did you mean server.port?"),
        ("port = 1\n", "gatepost.toml: port is not a setting; did you mean server.port?"),
        ("[sever]\nport = 1\n", "sever.port is not a setting; did you mean server.port?"),
        ("[server]\nxyzzy = 1\n", "server.xyzzy is not a setting"),
        ("server = 1\n", "server is not a setting"),
        ("[server]\nport = 70000\n", "server.port: expected a whole number <= 65535, not 70000"),
        ('[server]\nport = "80"\n', 'server.port: expected a whole number, not "80"'),
        ("[server]\nhead_seconds = 0\n", "server.head_seconds: expected a number > 0"),
        ("[server]\nworkers = true\n", "server.workers: expected a whole number, not true"),
        ('[log]\nlevel = "loud"\n', 'log.level: expected "debug" or "info" or "warning" or "error", not "loud"'),
        ('[server]\npublic_url = "wifi.example.org"\n', "server.public_url: expected something like"),
        ('[server]\npublic_url = "https://wifi.example.org/portal"\n', "server.public_url: expected something like"),
        ('[server]\ntrusted_proxies = ["proxy"]\n', "server.trusted_proxies: expected an address or a network"),
        ('[database]\nurl = "mysql://x"\n', "database.url: expected postgresql://"),
        ("[polls]\ndeadline_ms = 500\n", "must be below polls.deadline_ms (500)"),
        ('[metrics]\naccess = "token"\n', "metrics.token: expected at least 16 characters"),
        ('state_dir = " "\n', "state_dir: expected a directory"),
        ("[server\n", "cannot be read"),
    ],
)
def test_what_is_wrong_is_told_with_its_name(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(Invalid) as caught:
        config.load(written(tmp_path, text), {})
    assert told in str(caught.value)


def test_a_number_out_of_range_in_the_environment_is_told_for_its_size() -> None:
    with pytest.raises(Invalid) as caught:
        config.load(None, {"PORTAL_SERVER__PORT": "99999", "PORTAL_SERVER__HEAD_SECONDS": "0.0"})
    assert "PORTAL_SERVER__PORT in the environment: expected a whole number <= 65535, not 99999" in str(caught.value)
    assert "PORTAL_SERVER__HEAD_SECONDS in the environment: expected a number > 0.0, not 0" in str(caught.value)


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    file = written(tmp_path, "[server]\nprot = 1\nworkers = 0\n")
    with pytest.raises(Invalid) as caught:
        config.load(file, {"PORTAL_SERVER__POTR": "1", "PORTAL_POLLS__BATCH": "many"})
    assert len(str(caught.value).splitlines()) == 4
    assert "PORTAL_SERVER__POTR in the environment is not a setting; did you mean server.port?" in str(caught.value)
    assert 'PORTAL_POLLS__BATCH in the environment: expected a whole number, not "many"' in str(caught.value)


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="there is no file"):
        config.load(tmp_path / "missing.toml", {})


def test_what_is_shown_holds_no_password(tmp_path: Path) -> None:
    hidden = "correct-horse-battery"
    file = written(
        tmp_path,
        f'[database]\nurl = "postgresql://portal:{hidden}@db.example.org/portal?sslpassword={hidden}"\n'
        f'[metrics]\naccess = "token"\ntoken = "{hidden}"\n',
    )
    shown = config.show(config.load(file, {}))
    assert hidden not in shown
    assert 'url = "postgresql://portal:********@db.example.org/portal"' in shown
    assert list(flat(msgspec.convert(tomllib.loads(shown), Settings))) == list(config.keys())


def test_a_wrong_url_is_refused_without_showing_its_password(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        config.load(written(tmp_path, '[database]\nurl = "mysql://portal:hunter2@db/portal"\n'), {})
    assert "hunter2" not in str(caught.value)
