// Previews on workerd: a worker reads the host, a Durable Object for each sandbox judges the token and asks the
// service.
import { DurableObject } from 'cloudflare:workers';

export class Sandbox extends DurableObject {
  async fetch(request) {
    const url = new URL(request.url);
    const number = request.headers.get('x-preview-port');
    const sandbox = request.headers.get('x-sandbox-name');
    if (this.env.TOKENS[`${number}-${sandbox}`] !== request.headers.get('x-preview-token')) {
      return new Response(null, { status: 404 });
    }
    const headers = new Headers(request.headers);
    headers.set('x-forwarded-host', url.host);
    headers.set('x-forwarded-proto', 'http');
    headers.delete('x-preview-token');
    headers.delete('x-preview-port');
    headers.delete('proxy');
    url.host = `localhost:${number}`;
    return this.env[`SERVICE_${number}`].fetch(new Request(url, new Request(request, { headers, redirect: 'manual' })));
  }
}

export default {
  async fetch(request, env) {
    const { hostname } = new URL(request.url);
    const dot = hostname.indexOf('.');
    const ours = hostname.slice(dot + 1) === env.DOMAIN;
    const match = ours && /^([0-9]+)-([a-z0-9-]+)-([a-z0-9_]+)$/.exec(hostname.slice(0, dot));
    if (!match || !(`${match[1]}-${match[2]}` in env.TOKENS)) return new Response(null, { status: 404 });
    const headers = new Headers(request.headers);
    headers.set('x-preview-port', match[1]);
    headers.set('x-sandbox-name', match[2]);
    headers.set('x-preview-token', match[3]);
    return env.SANDBOX.getByName(match[2]).fetch(new Request(request, { headers, redirect: 'manual' }));
  },
};
