"""Who may call and what is encrypted: TLS files and API keys, the same for all protocols, reloaded when they change."""
