"""The online store: reads of users and feeds, over connections to Redis or Valkey behind a breaker."""
