"""Raw catalogue and users -> feature schema and model inputs."""
