"""Prepares small plain tables, whose sections a test gives as TOML."""

from pathlib import Path

from trainer.data.config import load_data_config
from trainer.data.prepare import PreparedData, prepare

HEAD = 'name = "small"\nformat = "table"\nmax_bad_share = 0.9\n'


def prepare_table(
    folder: Path, interactions: str, *, head: str = "", sections: str = "", item: str = "i"
) -> PreparedData:
    """Prepares the files in `folder`. `interactions` holds the keys of that section, without those of the ids."""
    config = folder / "data.toml"
    config.write_text(f'{HEAD}{head}\n[interactions]\nuser = "u"\nitem = "{item}"\n{interactions}\n{sections}\n')
    return prepare(load_data_config(str(config), {}), folder / "cache")
