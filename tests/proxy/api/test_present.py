"""How the state model's things look in answers; that secrets are left out is tested where the calls are."""

from actors import MemoryStore, open_runtime
from actors.testing.containers import fake_containers
from proxy.api.present import shown_ports, shown_sandbox, shown_time


def test_times_are_in_utc() -> None:
    assert shown_time(0) == "1970-01-01T00:00:00+00:00"


async def test_sandbox_without_a_public_address_has_ports_without_urls() -> None:
    async with open_runtime(MemoryStore(), containers={"fake": fake_containers()}) as runtime:
        sandbox = await runtime.get_sandbox("my-app", container="fake")
        await sandbox.expose_port(8081, token="b", hostname="example.com")
        await sandbox.expose_port(8080, token="a", hostname="example.com")
        state = await sandbox.state()
        ports = shown_ports(state, runtime, secrets=True)
        assert [(port.port, port.token, port.url) for port in ports] == [(8080, "a", None), (8081, "b", None)]
        async with sandbox.running():
            shown = shown_sandbox(await sandbox.state(), runtime, secrets=False)
        assert (shown.status, [port.status for port in shown.ports]) == ("running", ["active", "active"])
