"""The document as a page."""

from proxy.api.docs_page import write_page
from tests.proxy.api.stage import Stage


async def test_page_shows_every_call_and_runs_nothing(stage: Stage) -> None:
    response = await stage.call("GET", "/docs", key=None)
    assert (response.status, response.header("content-type")) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in (response.header("content-security-policy") or "")
    page = response.body.decode()
    for operation in stage.api.operations:
        if operation.path != "/docs":
            assert operation.path in page
    assert "<script" not in page


def test_words_of_the_document_are_not_markup() -> None:
    document = {
        "info": {"title": "<b>", "version": "1", "description": "&"},
        "paths": {"/<x>": {"get": {"summary": "<i>", "responses": {}}}},
        "components": {"schemas": {}},
    }
    page = write_page(document)
    assert "<i>" not in page
    assert "&lt;x&gt;" in page
