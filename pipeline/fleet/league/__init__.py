"""All releases in one table, and against an older one."""
