"""Typed jobs done elsewhere: in a process of their own that is started, limited, timed out and reaped, or in this one."""
