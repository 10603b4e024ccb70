"""How Tandem is run. Not part of the installed package: it starts the programs, as anyone else would."""
