"""The command line `nac`: one file for each group of commands, arguments next to actions."""
