"""The live catalogue: items that changed since the bundle was made, searched beside it by every worker.

    follower -> changes, vectors -> merge -> LiveItems -> catalogue and search of a model

`follower` reads the feeds of `tandem.contract.live_items` every second. Where something changed, `merge` makes an
immutable `LiveItems` of it, which is put around the bundle's catalogue and search (`serving_model.with_live`), and the
one pointer moves. So a request still takes one model at admission and uses nothing else.
"""
