"""What becomes of a field by its name; the rules themselves are tested where heads are rewritten (test_headers.py)."""

import pytest

from proxy.core.fates import Fate, passes_untouched, request_fate, response_fate


@pytest.mark.parametrize(
    "name", [b"x-forwarded-for", b"x_real_ip", b"cookie", b"set-cookie", b"x-accel-redirect", b"te"]
)
def test_names_of_concern_to_us_do_not_pass_untouched(name: bytes) -> None:
    assert not passes_untouched(name)


@pytest.mark.parametrize("name", [b"etag", b"grpc-status", b"x-checksum", b"x_anything"])
def test_all_other_names_pass_untouched(name: bytes) -> None:
    assert passes_untouched(name)


@pytest.mark.parametrize("name", [b"x_forwarded_for", b"x-sandbox-name", b"content_length", b"proxy", b"cookie"])
def test_no_spelling_of_a_request_field_of_concern_passes(name: bytes) -> None:
    assert request_fate(name) is not Fate.PASS


@pytest.mark.parametrize("name", [b"x-accel-redirect", b"alt-svc", b"connection", b"portico-anything"])
def test_orders_of_a_service_to_a_proxy_are_dropped(name: bytes) -> None:
    assert response_fate(name) is Fate.DROP
