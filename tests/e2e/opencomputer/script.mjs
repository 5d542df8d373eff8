// What a program written for the published TypeScript client does; it prints one JSON object of what it saw.
import { Sandbox } from "@opencomputer/sdk";

const options = { apiUrl: process.env.API_URL, apiKey: process.env.API_KEY };
const seen = {};
const sandbox = await Sandbox.create({ ...options, previewAuth: {} });
seen.id = sandbox.sandboxId;
seen.status = sandbox.status;
seen.token = sandbox.previewAuthToken;
seen.domain = sandbox.domain;
seen.computed = sandbox.getPreviewDomain(8123);

const first = await sandbox.createPreviewURL({ port: 8123 });
await sandbox.createPreviewURL({ port: 80 });
seen.again = (await sandbox.createPreviewURL({ port: 8123 })).id === first.id;
seen.hostname = first.hostname;
seen.ports = (await sandbox.listPreviewURLs()).map((preview) => preview.port);
await sandbox.deletePreviewURL(80);
await sandbox.deletePreviewURL(80);
seen.left = (await sandbox.listPreviewURLs()).map((preview) => preview.port);

seen.run = await sandbox.exec.run("echo out; echo err >&2; exit 3");
seen.slow = await sandbox.exec.run("sleep 0.6; echo slow");

const decoder = new TextDecoder();
const printed = { out: "", err: "" };
const session = await sandbox.exec.start("sh", {
  args: ["-c", "read line; echo got $line; echo bad >&2; exit 7"],
  onStdout: (data) => (printed.out += decoder.decode(data)),
  onStderr: (data) => (printed.err += decoder.decode(data)),
});
session.sendStdin("hello\n");
seen.code = await session.done;
seen.printed = printed;

const sleeper = await sandbox.exec.start("sleep", { args: ["100"] });
await sleeper.kill();
seen.killed = await sleeper.done;
seen.sessions = (await sandbox.exec.list()).map((info) => [info.command, info.running, info.exitCode]);

seen.rotated = await sandbox.rotatePreviewAuthToken();
await sandbox.hibernate();
seen.asleep = await sandbox.isRunning();
await sandbox.wake();
seen.awake = [await sandbox.isRunning(), sandbox.status];
await sandbox.setTimeout(600);
seen.connected = (await Sandbox.connect(sandbox.sandboxId, options)).sandboxId;

// The test looks at the preview now, and says when to go on.
console.log(JSON.stringify(seen));
for await (const _ of process.stdin) break;
await sandbox.kill();
console.log(JSON.stringify({ gone: !(await sandbox.isRunning()) }));
process.exit(0);
