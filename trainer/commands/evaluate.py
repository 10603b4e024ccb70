"""`evaluate`: test metrics of a registered model, or of a configuration over several seeds by any protocol."""

from __future__ import annotations

import argparse
from pathlib import Path

from tandem.ops.arguments import whole_number, word
from trainer.commands.arguments import (
    add_baselines_argument,
    add_config_arguments,
    add_data_arguments,
    add_output_argument,
    add_prepared_argument,
    data_source,
    train_config,
    write_comparison,
    write_figures,
)
from trainer.core.errors import ConfigError
from trainer.core.settings import Settings

SUMMARY = "test metrics of a registered model, or of a configuration over several seeds, beside the baselines"
_LEAVE_LAST_OUT = "leave-last-out"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    add_data_arguments(parser)
    add_prepared_argument(parser)
    add_config_arguments(parser)
    measured = parser.add_mutually_exclusive_group()
    measured.add_argument(
        "--seeds",
        type=whole_number(1),
        default=3,
        help="number of models to train; they are not registered; prints mean and spread (default: %(default)s)",
    )
    measured.add_argument(
        "--model",
        type=word,
        metavar="VERSION|ALIAS",
        help="measure this registered version on the data set; train nothing",
    )
    parser.add_argument(
        "--protocol",
        choices=(_LEAVE_LAST_OUT, "random", "time", "cold-items"),
        default=_LEAVE_LAST_OUT,
        help="what the models of --seeds must predict: each user's last interaction (by full ranking and 1+99), "
        "a random tenth, the newest tenth, or items without any known interaction (default: %(default)s)",
    )
    parser.add_argument(
        "--sampled",
        action="store_true",
        help="with --model: rank among 99 sampled items (1+99) instead of all; only to compare with the literature",
    )
    add_baselines_argument(parser)
    add_output_argument(parser)


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Evaluates and prints the metrics."""
    if options.model:
        if options.protocol != _LEAVE_LAST_OUT:
            raise ConfigError(
                f"--protocol {options.protocol}: a registered model was trained on the targets of this protocol; "
                f"--model allows only {_LEAVE_LAST_OUT}"
            )
        return _evaluate_registered(options, settings)
    source, config = data_source(options), train_config(options)
    from trainer.experiments.seeds import evaluate_seeds

    result = evaluate_seeds(
        source,
        config,
        settings,
        num_seeds=options.seeds,
        baselines=options.baselines,
        protocol=options.protocol,
    )
    print(result.to_text())
    if options.output:
        write_figures(options.output, result.to_json(), f"# Quality\n\n{result.to_text()}")
    return 0


def _evaluate_registered(options: argparse.Namespace, settings: Settings) -> int:
    source, config = data_source(options), train_config(options)
    import tempfile

    from tandem.contract.bundle import read_bundle
    from trainer.data.prepare import prepare
    from trainer.experiments.test_set_metrics import baselines_for, measure_bundle
    from trainer.features.encoded import encode
    from trainer.registry.registry import Registry
    from trainer.results.markdown import comparison_text
    from trainer.results.saved_evaluations import save_evaluations

    registry = Registry(settings)
    version = registry.find(options.model)
    encoded = encode(prepare(source, settings.data_dir, engine=settings.engine), config, settings)
    with tempfile.TemporaryDirectory(prefix="tandem-evaluate-") as scratch:
        bundle = read_bundle(registry.download(version, Path(scratch)))
        baselines = baselines_for(encoded, options.baselines)
        comparison = measure_bundle(bundle, encoded, baselines, sampled=options.sampled).comparison
    print(comparison_text(comparison))
    if options.output:
        write_comparison(comparison, options.output)
        save_evaluations(comparison.evaluations, Path(f"{options.output}.evaluations"))
    return 0
