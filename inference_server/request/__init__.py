"""One request, from admission to its answer. Begin with `recommender.py`; `flow/types.py` holds what passes between
stages.
"""
