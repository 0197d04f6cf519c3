"""What contained principals asked and got, encrypted; and the canaries that they were given."""
