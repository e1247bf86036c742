"""Event files as bytes: records framed and checked, files named so that they sort, files read back up to a torn tail.

Nothing in here knows what a record holds.
"""
