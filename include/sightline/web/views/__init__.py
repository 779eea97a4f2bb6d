"""What the pages show: functions from a catalog to frozen facts, cached by the versions of the tables."""
