"""The management API: what owners drive over HTTP, on the base domain of a stand-alone server.

schemas            what goes in and out, native; the source of the OpenAPI document
keys               who may call: named, scoped, kept as digests only
"""
