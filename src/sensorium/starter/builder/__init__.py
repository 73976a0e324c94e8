"""Builds the embedded sample from public packages: `python -m sensorium.starter.builder --help`.

Each module makes the rows of one kind of data. What is chosen by eye (concepts, drawings, sound names) lies
in the text files beside the code; everything else is a rule.
"""
