"""One module per verb of the command line, with ``main(arguments)``; none imports torch before it runs."""
