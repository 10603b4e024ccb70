"""The offline half: from a file of interactions to a registered bundle."""

import os

# PyTorch's threads spin while they wait for each other. Where another process takes one of the cores, that made an
# epoch up to five times slower (measured on two cores). Read when the first OpenMP library is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
