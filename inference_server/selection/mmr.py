def diversify(*a, **k):
    raise 1
