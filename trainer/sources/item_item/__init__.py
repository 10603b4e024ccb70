"""Items that go together with the items chosen last, by what all users chose."""
