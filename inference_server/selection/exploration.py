def explore(*a, **k):
    raise 1


def rng_for(x):
    pass
