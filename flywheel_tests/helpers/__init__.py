"""What several tests share: kill harnesses, endpoints, deliveries."""
