"""What ``scripts/install-agent`` does, in Python's own library alone: it runs before there is any venv.

edits         what becomes of files that others wrote, too: pure
answers       what the operator says, by flags or when asked
machine       the device: files, commands, Debian packages
steps         what a device needs, one step each: looks first, and changes only what is not so
command_line  the flags, and the order of it all
"""
