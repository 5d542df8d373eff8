"""Each proxy's own words for the same table."""

import json
from pathlib import Path

from bench.peers import configs, scene

PREVIEWS = scene.previews([8001, 8002], 3)
FOLDER = Path("folder")


def test_ports_are_those_of_the_previews() -> None:
    assert configs.ports_of(PREVIEWS) == [8001, 8002]


def test_nginx_lists_every_preview_and_refuses_the_rest() -> None:
    text = configs.nginx(PREVIEWS, 9000, FOLDER, user="nobody", buffer="64k")
    for preview in PREVIEWS:
        assert f'"{preview.port}/{preview.sandbox}/{preview.token}" service_{preview.port};' in text
    assert text.count('default "";') == 1
    assert 'if ($service = "") { return 404; }' in text
    assert "listen 127.0.0.1:9000 default_server" in text
    assert "proxy_buffer_size 64k;" in text
    assert r"\.example\.com$" in text
    assert text.count("{") == text.count("}")


def test_haproxy_looks_labels_up_in_a_file() -> None:
    lines = configs.haproxy_table(PREVIEWS).splitlines()
    assert lines == [f"{preview.label} service_{preview.port}" for preview in PREVIEWS]
    text = configs.haproxy(PREVIEWS, 9000, Path("hosts.map"))
    assert "bind 127.0.0.1:9000" in text
    assert "map_str(hosts.map)" in text
    assert "deny deny_status 404 unless" in text
    assert "backend service_8001\n    server service 127.0.0.1:8001" in text


def test_caddy_has_a_route_for_each_port_and_one_that_refuses() -> None:
    config = json.loads(configs.caddy(PREVIEWS, 9000))
    server = config["apps"]["http"]["servers"]["previews"]
    assert server["listen"] == ["127.0.0.1:9000"]
    *routes, refusal = server["routes"]
    listed = {
        host: route["handle"][0]["upstreams"][0]["dial"] for route in routes for host in route["match"][0]["host"]
    }
    assert listed == {preview.host: f"127.0.0.1:{preview.port}" for preview in PREVIEWS}
    assert refusal == {"handle": [{"handler": "static_response", "status_code": 404}]}


def test_table_has_every_token_by_port_and_sandbox() -> None:
    assert json.loads(configs.table(PREVIEWS)) == {
        f"{preview.port}-{preview.sandbox}": preview.token for preview in PREVIEWS
    }


def test_workerd_binds_the_tokens_and_a_service_for_each_port() -> None:
    text = configs.workerd(PREVIEWS, 9000)
    assert '(name = "SERVICE_8002", service = "service-8002")' in text
    assert 'address = "127.0.0.1:9000"' in text
    # The table is JSON in a string of Cap'n Proto's text format, which quotes as JSON does.
    quoted = next(line for line in text.splitlines() if "TOKENS" in line).partition("json = ")[2].rstrip("),")
    assert json.loads(json.loads(quoted)) == json.loads(configs.table(PREVIEWS))
