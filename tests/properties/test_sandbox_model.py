"""The state model lives under its laws: whole lives, drawn by hypothesis."""

from actors.testing.machine import SandboxMachine

TestSandboxModel = SandboxMachine.TestCase
