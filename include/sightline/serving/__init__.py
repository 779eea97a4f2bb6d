"""A champion asked about one photo at once, by a page, a program or the command.

questions says what goes in and comes out, champions answers (it alone loads torch, where it needs it),
neighbours finds the training photos that are most alike. A server keeps torch out of its own process:
predictor runs worker, a child process that holds the champions, and starts it again when it dies.
"""
