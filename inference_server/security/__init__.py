"""TLS and API keys, the same for all protocols, reloaded when their files change."""
