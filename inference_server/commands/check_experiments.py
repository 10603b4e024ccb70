"""`check-experiments`: checks a file of experiments as the server checks it before it is in force."""

from __future__ import annotations

import argparse

from inference_server.core.errors import ExperimentsInvalid
from inference_server.core.settings import Settings
from tandem.ops.arguments import path

SUMMARY = "check a file of experiments as it is checked before it is in force"
PROCESS = "check"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.description = (
        "Reads a file of experiments as the server reads it. Exit status 0: it would be in force, and its arms are "
        "shown; 1: it would be refused, and each line of the output says file, line, flag, field and why. Scenarios "
        "are looked up in TANDEM_POLICIES_FILE; models, which the server looks up in the registry, only with --models."
    )
    parser.add_argument("file", type=path, metavar="FILE", help="the YAML file")
    parser.add_argument("--models", action="store_true", help="look the models up in TANDEM_REGISTRY_URI as well")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Prints the arms, or one line for each problem of the file. Raises RegistryUnavailable with --models."""
    from inference_server.experiments.describe import describe_table
    from inference_server.experiments.experiments_file import ExperimentsFile
    from inference_server.experiments.table import Known
    from inference_server.policy.policy_file import scenario_names

    try:
        file = ExperimentsFile(options.file)
        table = file.table()
        policies = settings.policies_file
        scenarios = frozenset[str]() if policies is None else scenario_names(policies)
        named = {arm.model for arm in table.arms if arm.model}
        models = _models(settings, named) if options.models and named else None
        table = file.table(Known(models=models, scenarios=scenarios))
    except ExperimentsInvalid as refused:
        print("\n".join(refused.problems))
        return 1
    print(describe_table(table))
    return 0


def _models(settings: Settings, named: set[str]) -> frozenset[str]:
    import asyncio

    from inference_server.supervisor.registry import Registry

    registry = Registry(settings.registry_uri, model_name=settings.model_name, alias=settings.model_alias)
    return asyncio.run(registry.names_of_models(named))
