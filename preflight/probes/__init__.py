"""Programs that measure one thing each and print a JSON object. They run as processes, since
what they touch (a network file system, a driver, a collective) can block for good."""
