"""A child process a job: start, limit, time out, reap."""
