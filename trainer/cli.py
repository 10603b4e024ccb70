"""The trainer's command line: parse, build, run."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from tandem.contract.errors import ContractError
from trainer.config import TrainConfig, load_train_config
from trainer.data.config import DataConfig, load_data_config
from trainer.data.prepare import prepare
from trainer.errors import ConfigError, TrainerError
from trainer.settings import Settings, load_settings

EXIT_FAILED = 1
EXIT_USAGE = 2
_DATA_PREFIX = "data."


def main(arguments: Sequence[str]) -> int:
    """Runs one command; returns the exit status: 0, 1 for a run that failed, 2 for a wrong argument or setting."""
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings()
        _configure_logs(settings)
        data_overrides, train_overrides = _overrides(options)
        data_config = load_data_config(options.dataset, data_overrides)
        if options.command == "prepare":
            prepared = prepare(data_config, settings.data_dir, engine=settings.engine)
            print(prepared.report.to_text())
            print(prepared.directory)
            return 0
        config = load_train_config(options.config, train_overrides)
        if options.command == "evaluate":
            from trainer.evaluation.seeds import evaluate_seeds

            result = evaluate_seeds(data_config, config, settings, num_seeds=options.seeds)
            print(result.to_text())
            if options.output:
                Path(f"{options.output}.json").write_text(result.to_json() + "\n")
                Path(f"{options.output}.md").write_text(f"# Quality\n\n{result.to_text()}\n")
            return 0
        return _train(options, data_config, config, settings)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (TrainerError, ContractError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED


def _train(options: argparse.Namespace, data_config: DataConfig, config: TrainConfig, settings: Settings) -> int:
    # PyTorch and MLflow take seconds to import, and `prepare` and `--help` need neither.
    from trainer.run import train_and_register

    result = train_and_register(data_config, config, settings, if_needed=options.if_needed)
    if result is None:  # a process of torchrun that helped; process 0 says what came of it
        return 0
    if result.decision is not None:
        print(result.prepared.report.to_text(), result.decision, sep="\n", file=sys.stderr)
    print(
        json.dumps(
            {
                "prepared": str(result.prepared.directory),
                "model_version": result.version.model_version,
                "registry_version": result.version.number,
                "trained": result.trained,
                "content_weight": result.content_weight,
                "promoted": result.decision.promoted if result.decision else True,
                "sample_user_id": result.sample_user_id,
            }
        )
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer",
        description="From a file of interactions to a registered model. Environment: TANDEM_* (see docs/settings.md).",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    prepare_command = commands.add_parser("prepare", help="read and clean a data set, print the cleaning report")
    train_command = commands.add_parser("train", help="prepare, train, export, register, and promote past the gate")
    evaluate_command = commands.add_parser("evaluate", help="train with several seeds and print test metrics")
    for command in (prepare_command, train_command, evaluate_command):
        command.add_argument(
            "--dataset", default="ml-100k", help="name of a preset, or path of a TOML file (default: %(default)s)"
        )
        command.add_argument("--reviews", help="short for --set data.reviews=... (data set amazon)")
        command.add_argument("--meta", help="short for --set data.meta=... (data set amazon)")
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="override one key: data.KEY of the data set, or SECTION.KEY of the training configuration",
        )
    for command in (train_command, evaluate_command):
        command.add_argument("--config", type=Path, help="training configuration, a TOML file")
    train_command.add_argument(
        "--if-needed", action="store_true", help="end early when the champion came from the same data and configuration"
    )
    evaluate_command.add_argument("--seeds", type=int, default=3, help="models to train (default: %(default)s)")
    evaluate_command.add_argument("--output", type=Path, help="write PATH.json and PATH.md too", metavar="PATH")
    return parser


def _overrides(options: argparse.Namespace) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Overrides of the data set, and of the training configuration."""
    data = {name: value for name in ("reviews", "meta") if (value := getattr(options, name))}
    train = {}
    for assignment in options.set:
        key, separator, value = assignment.partition("=")
        if not separator:
            raise ConfigError(f"--set {assignment}: write KEY=VALUE")
        if key.startswith(_DATA_PREFIX):
            data[key.removeprefix(_DATA_PREFIX)] = value
        else:
            train[key] = value
    return data, train


def _configure_logs(settings: Settings) -> None:
    level = getattr(logging, settings.log_level.upper())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # What our libraries say is theirs; their warnings and errors are kept.
    logging.basicConfig(level=max(level, logging.WARNING), stream=sys.stderr)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads gain nothing beside PyTorch's
