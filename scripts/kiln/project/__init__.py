"""What is particular to this project: its folders, how large its kinds of files may be, and the
stage code that the driver shares. Every package but ``core`` may use all of it.
"""
