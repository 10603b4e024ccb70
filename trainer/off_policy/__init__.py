"""Off-policy evaluation: what another model or policy would have earned, from answers that were logged.

    logged_answers -> (the serving engine orders each answer's pool anew) -> weighing -> estimates -> verdict -> report

`weighing`, `reward_model`, `estimates` and `verdict` are arithmetic on arrays and know no file; docs/experiments.md
says what is assumed.
"""
