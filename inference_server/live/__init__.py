"""The live catalogue: every worker searches the items that changed since the bundle was made beside the bundle's.

    follower -> changes, vectors -> merge -> LiveItems -> catalogue and search of a model

`follower` reads the feeds of `tandem.contract.live_items` every second. When something changed, `merge` makes an
immutable `LiveItems`, `serving_model.with_live` puts it around the bundle's catalogue and search, and the pointer to
the serving model moves. So a request still takes one model at admission and uses nothing else.
"""
