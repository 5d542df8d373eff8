// Previews on the npm package `http-proxy`: node http_proxy.js PORT TABLE DOMAIN, with TABLE a file of
// {"8080-app": token}. NODE_PATH says where the package is.
'use strict';
const fs = require('fs');
const http = require('http');
const httpProxy = require('http-proxy');

const [port, table, domain] = process.argv.slice(2);
const tokens = new Map(Object.entries(JSON.parse(fs.readFileSync(table, 'utf8'))));
const agent = new http.Agent({ keepAlive: true, maxFreeSockets: 64 });
const proxy = httpProxy.createProxyServer({ xfwd: true });

function find(request) {
  const host = (request.headers.host || '').toLowerCase().split(':')[0];
  const dot = host.indexOf('.');
  const match = host.slice(dot + 1) === domain && /^([0-9]+)-([a-z0-9-]+)-([a-z0-9_]+)$/.exec(host.slice(0, dot));
  return match && tokens.get(`${match[1]}-${match[2]}`) === match[3] ? match : null;
}

function prepare(request, [, number, sandbox]) {
  request.headers['x-forwarded-host'] = request.headers.host;
  request.headers['x-sandbox-name'] = sandbox;
  request.headers.host = `localhost:${number}`;
  delete request.headers.proxy;
  return { target: `http://127.0.0.1:${number}` };
}

proxy.on('error', (error, request, response) => {
  if (response && response.writeHead && !response.headersSent) response.writeHead(502).end();
  else if (response) response.destroy();
});

const server = http.createServer((request, response) => {
  const match = find(request);
  if (!match) return response.writeHead(404).end();
  return proxy.web(request, response, { ...prepare(request, match), agent });
});
server.on('upgrade', (request, socket, head) => {
  const match = find(request);
  if (!match) return socket.end('HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n');
  return proxy.ws(request, socket, head, prepare(request, match));
});
server.headersTimeout = 30000;
server.requestTimeout = 0;
server.keepAliveTimeout = 75000;
server.listen(Number(port), '127.0.0.1', 1024);
