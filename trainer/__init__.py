"""The offline half: from a file of interactions to a registered bundle."""

import os

# PyTorch's threads spin while they wait for each other. With another process on one of the cores, an epoch was up to
# five times slower because of it (measured on two cores). OpenMP reads the variable when its first library is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
