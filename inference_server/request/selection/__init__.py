"""Which candidates are shown, and in which order: functions of arrays alone, put together by `stages.select`.

Candidates are known by position. Caps on a pool hold for every part of it, so what is capped may be drawn from:
`diversify` or the order by score, then `apply_caps` over the pool, then `explore`.
"""
