"""Plans, the limits that bind, and the model of the quota rules. Pure."""
