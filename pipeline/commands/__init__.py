"""The command line, a file a command or two: parse, call, print."""
