import pytest

from trainer.config.train_config import load_train_config
from trainer.core.errors import ConfigError
from trainer.core.settings import Settings, load_settings


def test_file_then_overrides(tmp_path) -> None:
    path = tmp_path / "train.toml"
    path.write_text("[fit]\nseed = 7\nmax_epochs = 3\n[towers]\nembedding_dim = 32\n")
    config = load_train_config(path, {"fit.max_epochs": "5", "towers.similarity": "dot"})
    assert (config.fit.seed, config.fit.max_epochs, config.towers.embedding_dim) == (7, 5, 32)
    assert config.towers.similarity == "dot"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"fit.epochs": "3"}, "fit.epochs"),
        ({"fit.max_epochs": "many"}, "fit.max_epochs"),
        ({"fit.max_epochs": "0"}, "greater than or equal to 1"),
        ({"towers.similarity": "euclid"}, "'cosine'"),
        ({"towers.num_heads": "3"}, "does not divide"),
        ({"towers.history_length": "201"}, "history_length"),
        ({"content.dim": "0"}, "content.dim"),
        ({"ranker.content_weights": "0.1,1.5"}, "ranker.content_weights"),
        ({"ranker.content_weights": "much"}, "ranker.content_weights"),
        ({"seed": "3"}, "SECTION.NAME"),
        ({"nothing.seed": "3"}, "override nothing.seed: unknown key; known keys: towers"),
        ({"fit.max_epoch": "3"}, "override fit.max_epoch: unknown key; did you mean 'max_epochs'"),
    ],
)
def test_a_wrong_key_is_named(overrides, message) -> None:
    with pytest.raises(ConfigError, match=message):
        load_train_config(None, overrides)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (
            "[fit]\nseed = 1\nlearning_rat = 0.1\n",
            {},
            r"line 3: fit\.learning_rat: unknown key; did you mean 'learning_rate'",
        ),
        ("[fti]\nseed = 1\n", {}, r"line 1: fti: unknown key; did you mean 'fit'"),
        ("[fit]\nloss = 'softmax'\n", {}, r"line 2: fit\.loss: .*'full'.*, not 'softmax'"),
        ("[towers]\nnum_heads = 3\n", {}, r"line 1: towers: num_heads 3 does not divide embedding_dim"),
        ("fit = 3\n", {"fit.seed": "1"}, r"override fit\.seed: fit is not a section"),
        ("[fit]\nseed = 1\n", {"fit.seed": "x"}, r"^override fit\.seed: .*valid integer.*, not 'x'"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path, text, overrides, message) -> None:
    path = tmp_path / "train.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_train_config(path, overrides)


def test_a_wrong_variable_is_named(monkeypatch) -> None:
    monkeypatch.setenv("TANDEM_LOG_LEVEL", "loud")
    with pytest.raises(ConfigError, match=r"TANDEM_LOG_LEVEL: .*'debug'.* \(got 'loud'\)"):
        load_settings()


def test_content_weights_are_a_list_in_a_file_and_text_in_an_override(tmp_path) -> None:
    path = tmp_path / "train.toml"
    path.write_text("[ranker]\ncontent_weights = [0.4, 0, 0.2, 0.4]\n")
    assert load_train_config(path, {}).ranker.content_weights == (0.0, 0.2, 0.4)
    assert load_train_config(path, {"ranker.content_weights": "0.3"}).ranker.content_weights == (0.3,)
    assert load_train_config(None, {"ranker.content_weights": "0.2,0.1"}).ranker.content_weights == (0.1, 0.2)
    path.write_text("[ranker]\ncontent_weights = []\n")
    with pytest.raises(ConfigError, match="content_weights"):
        load_train_config(path, {})


def test_a_file_that_is_not_toml_is_named_with_its_line(tmp_path) -> None:
    path = tmp_path / "train.toml"
    path.write_text("[fit]\nseed = = 3\n")
    with pytest.raises(ConfigError, match=r"train\.toml.*line 2"):
        load_train_config(path, {})
    with pytest.raises(ConfigError, match="No such file"):
        load_train_config(tmp_path / "absent.toml", {})


def test_artifacts_are_beside_an_sqlite_registry_and_a_server_decides_for_itself() -> None:
    assert Settings(registry_uri="sqlite:////data/mlflow.db").artifact_location == "/data/mlflow-artifacts"
    assert Settings(registry_uri="http://mlflow:5000").artifact_location is None
    assert Settings(registry_uri="http://mlflow:5000", artifact_root="s3://here").artifact_location == "s3://here"


def test_settings_have_defaults_below_the_working_folder() -> None:
    settings = load_settings()
    assert settings.registry_uri.startswith("sqlite:////")


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16"])
def test_a_file_with_a_byte_order_mark_is_read(tmp_path, codec) -> None:
    (tmp_path / "train.toml").write_bytes("[fit]\nmax_epochs = 7\n".encode(codec))
    assert load_train_config(tmp_path / "train.toml", {}).fit.max_epochs == 7
