"""Limits in Redis: the scripts, the partitions, the pipelined connection, the event stream."""
