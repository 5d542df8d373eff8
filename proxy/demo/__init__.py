"""The web app that `portico demo` puts into a sandbox: what a preview URL must carry, on one page.

`app` is the service and `page.*` what it shows. It stands for somebody's own app, so it knows nothing of Portico:
it imports neither `actors` nor the rest of `proxy`, and finds out its public URL as any app does, from the headers
it receives and from ``location``.
"""
