"""Publishing the users of prepared data: states and vectors into the online store."""
