"""One module per verb of the command line. Each has ``main(arguments)``; none imports torch before it runs."""
