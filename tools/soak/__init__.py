"""`make soak`: a cluster of its own under mixed load and every kind of trouble, each answer held to a known one."""
