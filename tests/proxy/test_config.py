"""Settings: who wins, what is refused, and whether the text says whom to blame."""

import ipaddress
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import Limits, Rules
from proxy.config import ConfigError, HostPort, Settings, flag_name, load, resolve, variable_name
from proxy.options import Options


def problems_of(flags: dict[str, object], environ: dict[str, str], file: Path | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(flags, environ, file)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return list(caught.value.problems)


def toml(folder: Path, text: str) -> Path:
    file = folder / "portico.toml"
    file.write_text(text, encoding="utf-8")
    return file


class TestPrecedence:
    def test_nothing_given_means_the_defaults(self) -> None:
        assert load({}, {}) == Settings()

    def test_flag_beats_environment_beats_file_beats_default(self, tmp_path: Path) -> None:
        file = toml(tmp_path, "fields_max = 1\nconnections_max = 1\nhead_bytes_max = 2000\n")
        environ = {"PORTICO_FIELDS_MAX": "2", "PORTICO_CONNECTIONS_MAX": "2"}
        resolved = resolve({"fields_max": 3}, environ, file)
        settings = resolved.settings
        assert (settings.fields_max, settings.connections_max, settings.head_bytes_max) == (3, 2, 2000)
        assert settings.wake_timeout_s == 90
        assert resolved.origins["fields_max"] == "--fields-max"
        assert resolved.origins["connections_max"] == "PORTICO_CONNECTIONS_MAX"
        assert resolved.origins["head_bytes_max"] == f"{file}: head_bytes_max"
        assert resolved.origins["wake_timeout_s"] == "default"

    def test_every_setting_has_an_origin(self) -> None:
        names = {field.name for field in msgspec.structs.fields(Settings)}
        assert resolve({}, {}).origins.keys() == names

    def test_lists_are_replaced_and_not_merged(self, tmp_path: Path) -> None:
        file = toml(tmp_path, 'domains = ["a.example", "b.example"]')
        assert load({}, {"PORTICO_DOMAINS": "c.example"}, file).domains == ("c.example",)

    def test_flag_that_is_none_was_not_given(self) -> None:
        assert load({"fields_max": None}, {"PORTICO_FIELDS_MAX": "7"}).fields_max == 7

    def test_config_variable_names_the_file(self, tmp_path: Path) -> None:
        file = toml(tmp_path, "fields_max = 9")
        assert load({}, {"PORTICO_CONFIG": str(file)}).fields_max == 9

    def test_config_flag_beats_the_config_variable(self, tmp_path: Path) -> None:
        file = toml(tmp_path, "fields_max = 9")
        assert load({}, {"PORTICO_CONFIG": "/does/not/exist"}, file).fields_max == 9

    def test_file_in_the_working_folder_is_not_read_unasked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        toml(tmp_path, "fields_max = 9")
        monkeypatch.chdir(tmp_path)
        assert load({}, {}).fields_max == Settings().fields_max


class TestValues:
    def test_text_becomes_each_type(self) -> None:
        settings = load(
            {},
            {
                "PORTICO_LISTEN": "[::]:0",
                "PORTICO_DOMAINS": "a.example, b.example",
                "PORTICO_DATA_FOLDER": "/var/lib/portico",
                "PORTICO_LOG_FORMAT": "json",
                "PORTICO_HEAD_TIMEOUT_S": "2.5",
                "PORTICO_RESERVED_PORTS": "",
                "PORTICO_TRUSTED_PROXIES": "10.0.0.0/8,fd00::/8",
            },
        )
        assert settings.listen == HostPort("::", 0)
        assert settings.domains == ("a.example", "b.example")
        assert settings.data_folder == Path("/var/lib/portico")
        assert settings.log_format == "json"
        assert settings.head_timeout_s == 2.5
        assert settings.reserved_ports == ()
        networks = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))
        assert settings.trusted_proxies == networks

    def test_file_uses_the_types_of_toml(self, tmp_path: Path) -> None:
        file = toml(
            tmp_path,
            'listen = "[::1]:80"\ntrusted_proxies = ["127.0.0.1"]\nreserved_ports = [3000, 9000]\nwake_timeout_s = inf',
        )
        settings = load({}, {}, file)
        assert settings.listen == HostPort("::1", 80)
        assert settings.trusted_proxies == (ipaddress.ip_network("127.0.0.1/32"),)
        assert settings.reserved_ports == (3000, 9000)
        assert settings.wake_timeout_s == float("inf")

    def test_flags_may_come_parsed(self) -> None:
        flags: dict[str, object] = {
            "listen": HostPort("localhost", 1),
            "data_folder": Path("there"),
            "reserved_ports": [1, 2],
            "trusted_proxies": ("::1",),
            "domains": ("a.example",),
        }
        settings = load(flags, {})
        assert settings.listen == HostPort("localhost", 1)
        assert settings.data_folder == Path("there")
        assert settings.reserved_ports == (1, 2)
        assert settings.trusted_proxies == (ipaddress.ip_network("::1"),)
        assert settings.domains == ("a.example",)

    @pytest.mark.parametrize(
        ("name", "text", "why"),
        [
            ("listen", "8787", "not HOST:PORT"),
            ("listen", "::1:8787", "in brackets"),
            ("domains", "", "length >= 1"),
            ("domains", "a.example,,b.example", "length >= 1"),
            ("data_folder", "", "length >= 1"),
            ("log_level", "loud", "'loud' is none of debug, info, warning, error"),
            ("head_bytes_max", "12", ">= 1024"),
            ("fields_max", "1.5", "a whole number"),
            ("fields_max", "", "a whole number"),
            ("head_timeout_s", "0", "> 0"),
            ("head_timeout_s", "nan", "> 0"),
            ("drain_timeout_s", "-1", ">= 0"),
            ("reserved_ports", "3000,70000", "<= 65535"),
            ("trusted_proxies", "10.0.0.1/8", "host bits"),
        ],
    )
    def test_wrong_value_is_refused_with_its_source(self, name: str, text: str, why: str) -> None:
        (problem,) = problems_of({}, {variable_name(name): text})
        assert problem.startswith(f"{variable_name(name)}: ")
        assert why in problem
        (problem,) = problems_of({name: text}, {})
        assert problem.startswith(f"{flag_name(name)}: ")

    @pytest.mark.parametrize(
        "line", ['fields_max = "10"', 'domains = "a.example"', "head_bytes_max = true", "listen = 8787"]
    )
    def test_wrong_type_in_the_file_is_refused_with_file_and_key(self, tmp_path: Path, line: str) -> None:
        file = toml(tmp_path, line)
        (problem,) = problems_of({}, {}, file)
        assert problem.startswith(f"{file}: {line.split(maxsplit=1)[0]}: Expected")

    def test_wrong_value_is_a_mistake_even_where_a_higher_source_hides_it(self) -> None:
        (problem,) = problems_of({"fields_max": 10}, {"PORTICO_FIELDS_MAX": "many"})
        assert problem.startswith("PORTICO_FIELDS_MAX: ")

    def test_all_problems_are_told_at_once(self, tmp_path: Path) -> None:
        file = toml(tmp_path, "wake_timeout_s = 0\nnonsense = 1")
        environ = {"PORTICO_FIELDS_MAX": "0", "PORTICO_DOMAIN": "a.example"}
        assert len(problems_of({"listen": "here", "lissten": 1}, environ, file)) == 6


class TestUnknownNames:
    def test_unknown_key_in_the_file_names_the_nearest(self, tmp_path: Path) -> None:
        file = toml(tmp_path, "head_timeout = 3")
        expected = f"{file}: there is no setting head_timeout; the nearest is head_timeout_s"
        assert problems_of({}, {}, file) == [expected]

    def test_table_in_the_file_is_an_unknown_key(self, tmp_path: Path) -> None:
        (problem,) = problems_of({}, {}, toml(tmp_path, "[limits]\nfields_max = 3"))
        assert "there is no setting limits" in problem

    def test_unknown_flag_names_the_nearest(self) -> None:
        expected = "there is no setting --field-max; the nearest is --fields-max"
        assert problems_of({"field_max": 3}, {}) == [expected]

    def test_variable_named_after_a_flag_is_told_its_own_name(self) -> None:
        expected = "there is no setting PORTICO_DATA; the nearest is PORTICO_DATA_FOLDER"
        assert problems_of({}, {"PORTICO_DATA": "/x"}) == [expected]

    def test_misspelt_variable_names_the_nearest(self) -> None:
        expected = "there is no setting PORTICO_LISTEM; the nearest is PORTICO_LISTEN"
        assert problems_of({}, {"PORTICO_LISTEM": "x:1"}) == [expected]

    @pytest.mark.parametrize(
        "variable", ["PORTICO_SERVICE_HOST", "PORTICO_PORT", "PORTICO_PORT_8787_TCP", "PORTICO_API_KEY", "LISTEN"]
    )
    def test_variable_of_another_program_is_left_alone(self, variable: str) -> None:
        assert load({}, {variable: "tcp://10.0.0.1:8787"}) == Settings()


class TestFile:
    def test_missing_file_is_an_error(self, tmp_path: Path) -> None:
        file = tmp_path / "none.toml"
        assert problems_of({}, {}, file) == [f"{file}: cannot be read: No such file or directory"]

    @pytest.mark.parametrize("content", [b"listen = ", b"\xff\xfe"])
    def test_file_that_is_not_toml_is_an_error(self, tmp_path: Path, content: bytes) -> None:
        file = tmp_path / "bad.toml"
        file.write_bytes(content)
        (problem,) = problems_of({}, {}, file)
        assert problem.startswith(f"{file}: is not TOML: ")


class TestHostPort:
    @pytest.mark.parametrize(
        ("text", "host", "port"),
        [
            ("127.0.0.1:8787", "127.0.0.1", 8787),
            ("localhost:0", "localhost", 0),
            ("[::1]:65535", "::1", 65535),
            ("[0:0::1]:1", "::1", 1),
            ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        ],
    )
    def test_address_is_read(self, text: str, host: str, port: int) -> None:
        assert HostPort.parse(text) == HostPort(host, port)

    @pytest.mark.parametrize(
        "text",
        ["", ":", ":80", "a", "a:", "a:65536", "a:080", "a:+1", "a:٨", "a b:1", "-a:1", "[]:1", "[1.2.3.4]:1", "::1"],
    )
    def test_what_is_no_address_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"HOST:PORT|brackets|name a host"):
            HostPort.parse(text)

    @given(
        st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str), st.just("localhost")),
        st.integers(0, 65535),
    )
    def test_printing_and_reading_are_inverse(self, host: str, port: int) -> None:
        assert HostPort.parse(str(HostPort(host, port))) == HostPort(host, port)


class TestHandingOn:
    """The defaults are taken from where they are used, so a setting that is not handed on would go unnoticed."""

    def test_defaults_are_those_of_the_library(self) -> None:
        assert (Settings().options(), Settings().limits(), Settings().rules()) == (Options(), Limits(), Rules())

    def test_every_number_reaches_who_uses_it(self) -> None:
        numbers = {
            name: index
            for index, name in enumerate(msgspec.structs.asdict(Settings()), 5000)
            if name.endswith(("_s", "_max"))
        }
        settings = load(dict(numbers), {})
        options, limits = settings.options(), settings.limits()
        used = {
            **{name: getattr(options, name, None) for name in numbers},
            "head_bytes_max": options.http.head_bytes_max,
            "fields_max": options.http.fields_max,
            "visits_per_sandbox_max": limits.visits_max,
        }
        assert used == numbers
        assert limits.wake_timeout_s == numbers["wake_timeout_s"]

    def test_ports_and_networks_reach_who_uses_them(self) -> None:
        settings = load({"reserved_ports": "1,2", "trusted_proxies": "10.0.0.0/8"}, {})
        assert settings.rules().reserved_ports == {1, 2}
        assert settings.options().trusts("10.1.2.3")


def test_defaults_pass_their_own_checks() -> None:
    """The constructor does not check, so a default could be one that nobody may set."""
    as_written = {
        name: str(value) for name, value in msgspec.structs.asdict(Settings()).items() if not isinstance(value, tuple)
    }
    assert load(as_written, {}) == Settings()
    assert load({"domains": "localhost", "reserved_ports": "3000", "trusted_proxies": ""}, {}) == Settings()
