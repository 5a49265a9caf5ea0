"""The command line: one module a noun, over a few that they share.

`app` gathers the commands and turns every failure into an exit code; `settings` holds the options that all commands take;
`peer` is the connection; `logins` and `passwords` know who asks; `output`, `packing`, `transfers` and `watching` carry
what goes to and fro. Whatever is slow to import is imported inside the command that needs it, so that help is instant.
"""
