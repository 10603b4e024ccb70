"""What Tandem's programs and its clients share.

`v1` is the public API and `contract` what the programs must agree on; `ops` is what the programs do alike, `client` the
Python client, `text` the text encoder.
"""
