"""The online store: reads of user states and feeds from Redis or Valkey, behind a breaker."""
