"""What happens when things break: processes killed, disks full, a store that misbehaves, tasks run twice."""
