"""What has been featurised: the registry, not a listing, says so. PostgreSQL in production, SQLite on one machine."""
