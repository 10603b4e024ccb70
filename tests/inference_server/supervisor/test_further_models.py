"""Models beside the server's own: each alias is followed by itself, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from inference_server.core.errors import SettingsError
from inference_server.core.settings import Settings
from inference_server.supervisor.operator_socket import Command, ask_server
from tandem.contract.bundle import Bundle
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.conftest import build
from tests.inference_server.defects import copy_of, truncated_index
from tests.support.serving import MlflowRegistry, Server, serve, server_environment, wait_until

pytestmark = pytest.mark.process

NO_STORE = "redis://127.0.0.1:1/0"


@pytest.fixture(scope="module")
def third(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build(tmp_path_factory.mktemp("bundles") / "three", model_version="three", item_prefix="three", seed=3)


@dataclass(frozen=True)
class Registered:
    """One model of a registry."""

    registry: MlflowRegistry
    name: str

    def register(self, bundle: Bundle | Path, version: str, alias: str | None = None) -> str:
        directory = bundle if isinstance(bundle, Path) else bundle.directory
        return self.registry.register(directory, model_name=self.name, model_version=version, alias=alias)

    def move(self, alias: str, number: str) -> None:
        self.registry.move_alias(self.name, alias, number)

    @asynccontextmanager
    async def server(self, directory: Path, further: str, **settings: object) -> AsyncIterator[Server]:
        async with serve(
            directory,
            registry_uri=self.registry.uri,
            model_name=self.name,
            store_url=NO_STORE,
            further_models=further,
            **settings,
        ) as running:
            yield running


@pytest.fixture
def registered(registry: MlflowRegistry, model_name: str) -> Registered:
    return Registered(registry, model_name)


async def models(server: Server) -> dict[str, pb.ServedModel]:
    return {model.alias: model for model in (await server.status()).models}


async def until(server: Server, alias: str, model_version: str, *, refusal: str = "") -> pb.ServedModel:
    async def shown() -> pb.ServedModel | None:
        model = (await models(server)).get(alias)
        fits = model is not None and model.model_version == model_version and refusal in model.refusal
        return model if fits and bool(model.refusal) == bool(refusal) else None

    found: pb.ServedModel = await wait_until(shown, f"{alias} is {model_version or 'away'} {refusal}")
    return found


def count(server: Server, event: str, **fields: object) -> int:
    return sum(line["event"] == event and fields.items() <= line.items() for line in server.logs)


async def test_each_alias_is_swapped_by_itself(
    tmp_path: Path, registered: Registered, first: Bundle, second: Bundle, third: Bundle
) -> None:
    number_one = registered.register(first, "one", "champion")
    number_two = registered.register(second, "two", "challenger")
    async with registered.server(tmp_path, f"challenger, {number_one} ,absent", workers=2) as server:
        challenger = await until(server, "challenger", "two")
        assert challenger.registry_version == number_two
        assert challenger.loaded_at.seconds > 0
        await until(server, number_one, "one")
        # The same version under two names is downloaded, checked and opened once.
        assert count(server, "bundle_checked") == 2
        assert count(server, "bundle_downloaded") == 2
        await until(server, "absent", "", refusal=f"the registered model '{registered.name}' has no alias 'absent'")
        await server.log("further_model_problem", alias="absent", serves=False)
        text = await server.metrics()
        for model, up in (("challenger", 1.0), (number_one, 1.0), ("absent", 0.0)):
            assert f'tandem_further_model_up{{model="{model}"}} {up}' in text
            assert f'tandem_further_model_problem{{model="{model}"}} {1 - up}' in text
        assert f'{{model="challenger",model_version="two",registry_version="{number_two}"}} 1.0' in text
        labels = f'model_version="one",registry_version="{number_one}",variant="champion"'
        assert f"tandem_model_info{{{labels}}} 1.0" in text
        # The challenger moves, and nothing else does.
        number_three = registered.register(third, "three", "challenger")
        await until(server, "challenger", "three")
        status = await server.status()
        assert (status.model_version, status.variant, status.bundles_refused) == ("one", "champion", 0)
        assert "tandem_bundle_swaps_total 1.0" in await server.metrics()
        # It is promoted: the champion takes over what is open, and needs no check.
        checks = count(server, "bundle_checked")
        registered.move("champion", number_three)
        await until(server, "champion", "three")
        assert (await server.recommend()).variant == "champion"
        assert count(server, "bundle_checked") == checks
        await until(server, "challenger", "three")
        await until(server, number_one, "one")
        # The absent alias turns up while the server runs.
        registered.move("absent", number_two)
        await until(server, "absent", "two")


EXPERIMENTS = """
features:
  - name: homepage
    strategies:
      - name: flexibleRollout
        parameters: {rollout: 100}
        variants:
          - {name: control, payload: {type: json, value: {experiment: new-model}}}
          - {name: treatment, payload: {type: json, value: {experiment: new-model, model: challenger}}}
"""


async def test_users_of_an_arm_are_answered_by_its_model(
    tmp_path: Path, registered: Registered, first: Bundle, second: Bundle, third: Bundle
) -> None:
    registered.register(first, "one", "champion")
    registered.register(second, "two", "challenger")
    experiments = tmp_path / "experiments.yaml"
    experiments.write_text(EXPERIMENTS)
    # The experiments alone say that the challenger is needed.
    async with registered.server(tmp_path / "server", "", experiments_file=experiments, workers=2) as server:
        await until(server, "challenger", "two")
        users = [f"user {number}" for number in range(40)]

        async def answers() -> dict[str, pb.RecommendResponse]:
            return {user: await server.recommend(user_id=user) for user in users}

        async def by_arm(treatment: tuple[str, str, bool]) -> int:
            """Asserts model, variant and exposure of each arm's answers; returns the number of users of `treatment`."""
            given = await answers()
            for answer in given.values():
                (assignment,) = answer.assignments
                expected = treatment if assignment.arm == "treatment" else ("one", "champion", True)
                assert (answer.model_version, answer.variant, assignment.exposed) == expected
                assert ("arm_unavailable" in answer.degraded_reasons) == (not assignment.exposed)
                assert {item.item_id.partition("-")[0] for item in answer.items} == {answer.model_version}
            return sum(answer.assignments[0].arm == "treatment" for answer in given.values())

        num_treated = await by_arm(("two", "challenger", True))
        assert 8 < num_treated < 32
        registered.register(third, "three", "challenger")
        await until(server, "challenger", "three")
        await server.log("further_model_serving", model_version="three")
        assert await by_arm(("three", "challenger", True)) == num_treated
        registered.registry.drop_alias(registered.name, "challenger")
        await until(server, "challenger", "", refusal="no alias 'challenger'")
        await server.log("further_model_withdrawn", alias="challenger")
        assert await by_arm(("one", "champion", False)) == num_treated
        text = await server.metrics()
        missing = f'tandem_model_degraded_total{{model="challenger",reason="arm_unavailable"}} {float(num_treated)}'
        assert missing in text
        assert f'tandem_model_answers_total{{model="challenger"}} {2.0 * num_treated}' in text
        assert f'tandem_model_seconds_count{{model="challenger"}} {2.0 * num_treated}' in text
        # The experiment ends, and its model goes.
        experiments.write_text("features: []")
        await server.log("further_model_removed", alias="challenger")
        assert [model.alias for model in (await server.status()).models] == ["champion"]
        assert not (await server.recommend(user_id="user 1")).assignments


async def test_a_refused_bundle_leaves_everything_else_alone(
    tmp_path: Path, registered: Registered, first: Bundle, second: Bundle
) -> None:
    registered.register(first, "one", "champion")
    broken = copy_of(second.directory, tmp_path / "broken")
    truncated_index(broken)
    number_two = registered.register(broken, "two", "challenger")
    number_three = registered.register(second, "two", "other")
    async with registered.server(tmp_path / "server", "challenger,other") as server:
        await until(server, "other", "two")
        await until(server, "challenger", "", refusal=f"version {number_two} is refused: corrupt: ")
        assert (await server.recommend()).model_version == "one"
        status = await server.status()
        assert (status.bundles_refused, status.refused_bundles[0].registry_version) == (1, number_two)
        await server.log("bundle_refused", registry_version=number_two)
        # A sound version, and then a broken one again: the sound one serves on, and the problem is said.
        registered.move("challenger", number_three)
        await until(server, "challenger", "two")
        registered.move("challenger", number_two)
        model = await until(server, "challenger", "two", refusal=f"version {number_two} is refused")
        assert model.registry_version == number_three
        assert 'tandem_further_model_up{model="challenger"} 1.0' in await server.metrics()
        assert count(server, "bundle_refused", registry_version=number_two) == 2
    # After a restart without the registry, each name has what it served last, and what was refused is not tried again.
    registered.registry.database.rename(registered.registry.database.with_suffix(".away"))
    try:
        async with registered.server(tmp_path / "server", "challenger,other") as server:
            await until(server, "other", "two")
            await until(server, "challenger", "two", refusal=f"version {number_two} is refused")
            assert (await server.recommend()).model_version == "one"
            assert count(server, "bundle_checked", registry_version=number_three) <= 1
    finally:
        registered.registry.database.with_suffix(".away").rename(registered.registry.database)


async def test_an_alias_that_goes_takes_its_model_along(
    tmp_path: Path, registered: Registered, first: Bundle, second: Bundle
) -> None:
    registered.register(first, "one", "champion")
    number_two = registered.register(second, "two", "challenger")
    async with registered.server(tmp_path, "challenger") as server:
        await until(server, "challenger", "two")
        registered.registry.drop_alias(registered.name, "challenger")
        await until(server, "challenger", "", refusal="no alias 'challenger'")
        await server.log("further_model_withdrawn", alias="challenger")
        assert (await server.recommend()).model_version == "one"
        registered.move("challenger", number_two)
        await until(server, "challenger", "two")


async def test_a_further_model_is_rolled_back_by_command(
    tmp_path: Path, registered: Registered, first: Bundle, second: Bundle, third: Bundle
) -> None:
    number_one = registered.register(first, "one", "champion")
    number_two = registered.register(second, "two", "challenger")
    async with registered.server(tmp_path, f"challenger,{number_one}") as server:
        await until(server, "challenger", "two")
        registered.register(third, "three", "challenger")
        await until(server, "challenger", "three")

        async def by_command_line(*arguments: str) -> tuple[int | None, str]:
            environment = server_environment(
                tmp_path, registry_uri=registered.registry.uri, model_name=registered.name, store_url=NO_STORE
            )
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "inference_server", *arguments),
                env=environment,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            output, _ = await process.communicate()
            return process.returncode, output.decode()

        async def replies(**fields: str) -> list[tuple[bool, str]]:
            asked = ask_server(tmp_path, Command(name="rollback", **fields))
            return [(reply.done, reply.text) async for reply in asked]

        done = await replies(model="challenger")
        assert done[-1] == (True, f"the alias challenger names version {number_two}")
        await until(server, "challenger", "two")
        assert registered.registry.aliased(registered.name, "challenger") == number_two
        assert (await server.recommend()).model_version == "one"
        assert await replies(model="nobody") == [
            (False, f"this server does not follow 'nobody'; it follows champion, {number_one}, challenger")
        ]
        ((is_done, text),) = await replies(model=number_one, to=number_two)
        assert not is_done
        status, output = await by_command_line("rollback", "--model", "challenger")
        assert (status, "(three) serves, instead of version" in output) == (0, True)
        await until(server, "challenger", "three")
        assert await by_command_line("forget-refusals", "--model", "challenger") == (
            0,
            "no version is remembered as refused\n",
        )
        assert f"{number_one} is a version number, and no alias" in text


async def test_a_restarted_worker_has_every_model(
    tmp_path: Path, registered: Registered, first: Bundle, second: Bundle
) -> None:
    registered.register(first, "one", "champion")
    registered.register(second, "two", "challenger")
    async with registered.server(tmp_path, "challenger") as server:
        await until(server, "challenger", "two")
        killed = await server.worker_pid(1)
        os.kill(killed, signal.SIGKILL)

        async def replaced() -> bool:
            return await server.worker_pid(1) != killed

        await wait_until(replaced, "the worker is replaced")
        await until(server, "challenger", "two")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("challenger,a b", "'a b' must be 1 to 255 letters"),
        ("latest", "'latest' is kept by MLflow for itself"),
        ("v3", "'v3' is kept by MLflow for itself"),
        ("x" * 101, "must have at most 100 bytes"),
        ("../x", "'../x' must be"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused(monkeypatch: pytest.MonkeyPatch, value: str, words: str) -> None:
    monkeypatch.setenv("TANDEM_FURTHER_MODELS", value)
    with pytest.raises(SettingsError, match="TANDEM_FURTHER_MODELS") as refused:
        Settings.load()
    assert words in str(refused.value)
    assert "or a version number" in str(refused.value)


def test_a_folder_has_no_further_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TANDEM_FURTHER_MODELS", "challenger")
    monkeypatch.setenv("TANDEM_BUNDLE_PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="needs a registry"):
        Settings.load()
