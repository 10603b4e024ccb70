"""A simulated shop and its visitors, who drive a served stack: the whole loop on one machine, and load for tests.

Read downwards; a module imports only those above it.

errors        what ends a command
settings      what a world is made from
world         items, users, and what each user finds attractive on each day
behaviour     what a user does with a list: examines, clicks, dwells, adds to the cart, buys, comes back
history       what happened before the first day, as rows of interactions
world_files   the world as a data set for the trainer, and back
ledger        what was shown and done, and what was to be expected of it
visits        one visit of one user, over the wire
load          days of visits, with bounded concurrency and rate
summary       a ledger for people
command       the commands `world` and `run`
experiment    the files of the demonstration's experiment, and its report beside the truth
waiting       both models in service, and archives that are complete
demo          the whole loop: world, two models, experiment, report, verdict, nightly training
"""
