"""Which candidates are shown, and in which order: functions of arrays alone, put together by `stages.select`.

The functions name candidates by their positions in the arrays. The order is `diversify` or the order by score, then
`apply_caps` over the whole pool, then `explore`: a pool within the caps stays within them, whatever is drawn from it.
"""
