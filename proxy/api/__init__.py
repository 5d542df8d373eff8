"""The management API: what owners drive over HTTP, on the base domain of a stand-alone server.

schemas            what goes in and out, native; the source of the OpenAPI document
keys               who may call: named, scoped, kept as digests only
"""

import atexit
import gc

# Once a document has been written from the schemas, msgspec (0.22, its issue 717) frees the types of some constrained
# fields twice when the interpreter ends, and one program in six dies of SIGSEGV after all its work is done. What is
# frozen is not looked through at the very end.
atexit.register(gc.freeze)
